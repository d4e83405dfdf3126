package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// AppendBinary appends the binary form of a message, given as a pointer to its struct.
func AppendBinary(dst []byte, msg any) []byte {
	return appendMessage(dst, structOf(msg))
}

func appendMessage(dst []byte, v reflect.Value) []byte {
	for _, f := range describe(v.Type()).fields {
		if value := v.Field(f.index); f.present(value) {
			dst = f.append(dst, value)
		}
	}
	return dst
}

func (f *field) append(dst []byte, v reflect.Value) []byte {
	switch {
	case f.kind == kindMap:
		return f.appendMap(dst, v)
	case f.list:
		for i := range v.Len() {
			dst = f.appendOne(dst, v.Index(i))
		}
		return dst
	}
	return f.appendOne(dst, v)
}

// appendMap appends an entry a key, in the order of the keys: the same message is the same bytes.
func (f *field) appendMap(dst []byte, v reflect.Value) []byte {
	entries := v.Interface().(map[string]string)
	for _, key := range sortedKeys(entries) {
		key, value := strings.ToValidUTF8(key, "\uFFFD"), strings.ToValidUTF8(entries[key], "\uFFFD")
		dst = appendKey(dst, f.number, wireBytes)
		dst = binary.AppendUvarint(dst, uint64(textSize(key)+textSize(value)))
		dst = append(binary.AppendUvarint(append(dst, 1<<3|wireBytes), uint64(len(key))), key...)
		dst = append(binary.AppendUvarint(append(dst, 2<<3|wireBytes), uint64(len(value))), value...)
	}
	return dst
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// textSize is the size of a string with a key of one byte.
func textSize(s string) int { return 1 + varintSize(uint64(len(s))) + len(s) }

func varintSize(n uint64) int { return (bits.Len64(n|1) + 6) / 7 }

func appendKey(dst []byte, number, wireType uint64) []byte {
	return binary.AppendUvarint(dst, number<<3|wireType)
}

func (f *field) appendOne(dst []byte, v reflect.Value) []byte {
	v = reflect.Indirect(v)
	dst = appendKey(dst, f.number, f.wireType)
	switch f.kind {
	case kindString:
		text := strings.ToValidUTF8(v.String(), "\uFFFD")
		return append(binary.AppendUvarint(dst, uint64(len(text))), text...)
	case kindBytes:
		return append(binary.AppendUvarint(dst, uint64(v.Len())), v.Bytes()...)
	case kindMessage:
		return appendSized(dst, func(dst []byte) []byte { return appendMessage(dst, v) })
	case kindTime:
		return appendSized(dst, func(dst []byte) []byte { return appendTime(dst, v.Interface().(time.Time)) })
	case kindDouble:
		return binary.LittleEndian.AppendUint64(dst, math.Float64bits(v.Float()))
	default:
		return binary.AppendUvarint(dst, f.varint(v))
	}
}

// appendSized appends what body does with its length before it. The length is written once it is known,
// and mostly needs the one byte that was left for it, or as many as the large content before.
func appendSized(dst []byte, body func([]byte) []byte) []byte {
	start := len(dst)
	dst = body(append(dst, 0))
	size := len(dst) - start - 1
	if room := varintSize(uint64(size)); room > 1 {
		dst = append(dst, make([]byte, room-1)...)
		copy(dst[start+room:], dst[start+1:start+1+size])
	}
	binary.PutUvarint(dst[start:], uint64(size))
	return dst
}

func appendTime(dst []byte, t time.Time) []byte {
	if seconds := t.Unix(); seconds != 0 {
		dst = binary.AppendUvarint(append(dst, 1<<3|wireVarint), uint64(seconds))
	}
	if nanos := t.Nanosecond(); nanos != 0 {
		dst = binary.AppendUvarint(append(dst, 2<<3|wireVarint), uint64(nanos))
	}
	return dst
}

func (f *field) varint(v reflect.Value) uint64 {
	switch f.kind {
	case kindBool:
		if v.Bool() {
			return 1
		}
		return 0
	case kindUint:
		return v.Uint()
	case kindSint:
		return uint64(v.Int()<<1) ^ uint64(v.Int()>>63)
	default:
		return uint64(v.Int())
	}
}

var errTruncated = errors.New("the message is cut off or malformed")

// UnmarshalBinary decodes the binary form into msg, a pointer to a struct. Fields that msg does not have are
// ignored. Byte strings are copies: data may be used again. After an error msg is in part filled.
func UnmarshalBinary(data []byte, msg any) error {
	elements := budget(0)
	return decodeMessage(data, structOf(msg), maxDepth, &elements)
}

func decodeMessage(data []byte, into reflect.Value, depth int, elements *budget) error {
	if depth == 0 {
		return errors.New("the message is nested too deeply")
	}
	m := describe(into.Type())
	for len(data) > 0 {
		number, wireType, rest, err := readKey(data)
		if err != nil {
			return err
		}
		f := m.byNumber[number]
		if f == nil || f.wireType != wireType {
			if data, err = skip(rest, number, wireType, depth); err != nil {
				return err
			}
			continue
		}
		if data, err = f.decode(rest, into, depth, elements); err != nil {
			return err
		}
	}
	return nil
}

func readKey(data []byte) (number, wireType uint64, rest []byte, err error) {
	key, n := binary.Uvarint(data)
	if n <= 0 || key>>3 == 0 || key>>3 >= 1<<29 {
		return 0, 0, nil, errTruncated
	}
	return key >> 3, key & 7, data[n:], nil
}

// skip passes over the value of a field that is not known.
func skip(data []byte, number, wireType uint64, depth int) ([]byte, error) {
	switch wireType {
	case wireVarint:
		_, rest, err := readVarint(data)
		return rest, err
	case wireBytes:
		_, rest, err := readBytes(data)
		return rest, err
	case wire64:
		return cut(data, 8)
	case wire32:
		return cut(data, 4)
	case wireGroup:
		return skipGroup(data, number, depth-1)
	}
	return nil, errTruncated
}

func skipGroup(data []byte, group uint64, depth int) ([]byte, error) {
	for depth > 0 {
		number, wireType, rest, err := readKey(data)
		if err != nil {
			return nil, err
		}
		if wireType == wireEnd && number == group {
			return rest, nil
		}
		if data, err = skip(rest, number, wireType, depth); err != nil {
			return nil, err
		}
	}
	return nil, errTruncated
}

func cut(data []byte, n int) ([]byte, error) {
	if len(data) < n {
		return nil, errTruncated
	}
	return data[n:], nil
}

func readVarint(data []byte) (uint64, []byte, error) {
	value, n := binary.Uvarint(data)
	if n <= 0 {
		return 0, nil, errTruncated
	}
	return value, data[n:], nil
}

func readBytes(data []byte) (value, rest []byte, err error) {
	size, rest, err := readVarint(data)
	if err != nil || size > uint64(len(rest)) {
		return nil, nil, errTruncated
	}
	return rest[:size], rest[size:], nil
}

// decode reads one value of the field.
func (f *field) decode(data []byte, in reflect.Value, depth int, elements *budget) ([]byte, error) {
	if f.list || f.kind == kindMap {
		if err := elements.take(); err != nil {
			return nil, err
		}
	}
	switch f.wireType {
	case wireVarint:
		value, rest, err := readVarint(data)
		if err == nil {
			f.setVarint(f.target(in), value)
		}
		return rest, err
	case wire64:
		rest, err := cut(data, 8)
		if err == nil {
			f.target(in).SetFloat(math.Float64frombits(binary.LittleEndian.Uint64(data)))
		}
		return rest, err
	}
	value, rest, err := readBytes(data)
	if err != nil {
		return nil, err
	}
	return rest, f.setBytes(f.target(in), value, depth, elements)
}

// setVarint cuts off what a smaller type does not hold, as the protocol wants it.
func (f *field) setVarint(v reflect.Value, n uint64) {
	switch f.kind {
	case kindBool:
		v.SetBool(n != 0)
	case kindUint:
		if f.bits == 32 {
			n = uint64(uint32(n))
		}
		v.SetUint(n)
	case kindSint:
		if f.bits == 32 {
			n = uint64(uint32(n))
		}
		v.SetInt(int64(n>>1) ^ -int64(n&1))
	default:
		if f.bits == 32 {
			n = uint64(int64(int32(n)))
		}
		v.SetInt(int64(n))
	}
}

func (f *field) setBytes(v reflect.Value, data []byte, depth int, elements *budget) error {
	switch f.kind {
	case kindString:
		text, err := f.text(data)
		v.SetString(text)
		return err
	case kindBytes:
		v.SetBytes(append(make([]byte, 0, len(data)), data...))
		return nil
	case kindTime:
		return decodeTime(data, v)
	case kindMap:
		return f.decodeEntry(data, v)
	default:
		return decodeMessage(data, v, depth-1, elements)
	}
}

func (f *field) text(data []byte) (string, error) {
	if !utf8.Valid(data) {
		return "", fmt.Errorf("the field %s is not valid UTF-8", f.name)
	}
	return string(data), nil
}

// timestamp is google.protobuf.Timestamp.
type timestamp struct {
	Seconds int64 `wire:"1,seconds"`
	Nanos   int32 `wire:"2,nanos"`
}

func decodeTime(data []byte, v reflect.Value) error {
	at := timestamp{}
	if t := v.Interface().(time.Time); !t.IsZero() {
		at = timestamp{Seconds: t.Unix(), Nanos: int32(t.Nanosecond())}
	}
	if err := UnmarshalBinary(data, &at); err != nil {
		return err
	}
	t := time.Unix(at.Seconds, int64(at.Nanos)).UTC()
	if at.Nanos < 0 || at.Nanos >= 1e9 || t.Year() < 1 || t.Year() > 9999 {
		return errors.New("a point in time is out of range")
	}
	v.Set(reflect.ValueOf(t))
	return nil
}

// entry is what a map consists of.
type entry struct {
	Key   string `wire:"1,key"`
	Value string `wire:"2,value"`
}

func (f *field) decodeEntry(data []byte, v reflect.Value) error {
	e := entry{}
	if err := UnmarshalBinary(data, &e); err != nil {
		return fmt.Errorf("the field %s: %w", f.name, err)
	}
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	v.Interface().(map[string]string)[e.Key] = e.Value
	return nil
}
