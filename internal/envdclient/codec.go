package envdclient

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// What decoding takes, beside the bytes of the message themselves: a message is a struct with its pointers, and two bytes on the
// wire are enough for an empty one; anything else is a string's header or a number. An honest listing of maxListing
// bytes costs less than maxCost.
const (
	messageCost, fieldCost = 256, 32
	maxCost                = 128 << 20
)

var errCostly = errors.New("the message has more parts than an honest guest sends")

// boundedCodec decodes protobuf within bounds: connect bounds a message's bytes, but not what they become.
type boundedCodec struct{}

// Name implements connect.Codec.
func (boundedCodec) Name() string { return "proto" }

// Marshal implements connect.Codec.
func (boundedCodec) Marshal(message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no protobuf message", message)
	}
	return proto.Marshal(m)
}

// Unmarshal implements connect.Codec.
func (boundedCodec) Unmarshal(data []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no protobuf message", message)
	}
	left := maxCost
	if err := charge(data, m.ProtoReflect().Descriptor(), &left); err != nil {
		return err
	}
	return proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, m)
}

// charge takes the cost of a message of the given type off what is left. Its recursion ends because no message of the protocol
// contains itself.
func charge(data []byte, d protoreflect.MessageDescriptor, left *int) error {
	*left -= messageCost
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
			return protowire.ParseError(n)
		}
		value := data[:n]
		data = data[n:]
		if *left -= fieldCost; *left < 0 {
			return errCostly
		}
		field := d.Fields().ByNumber(number)
		if field == nil || field.Message() == nil || kind != protowire.BytesType {
			continue
		}
		inner, _ := protowire.ConsumeBytes(value) // it has been consumed once
		if err := charge(inner, field.Message(), left); err != nil {
			return err
		}
	}
	return nil
}
