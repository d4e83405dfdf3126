// Package wire encodes plain Go structs as protocol buffers, in the binary form and in the JSON
// form, and decodes both. It is there because envd is in every guest: the protobuf library
// takes memory that a description in struct tags does not.
//
// A message is a struct; each field that is a field of the message has a tag
//
//	wire:"<number>,<name>[,sint][,oneof=<group>]"
//
// with the name as the .proto file has it. The Go types are bool, int32, int64, uint32, uint64, float64, string, []byte,
// a pointer to one of these for a field with presence, an Enum, a pointer to a message, *time.Time for
// google.protobuf.Timestamp, map[string]string, and slices of strings or of pointers to messages. The fields of
// a oneof are pointers or []byte; nil is one that is not set, and decoding leaves at most one.
//
// Text that is not UTF-8 cannot be said: decoding refuses it, encoding puts U+FFFD into its place.
// What comes in is bounded by its own length, maxDepth and maxElements; its caller bounds the length.
package wire

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxDepth is how deeply messages may be nested, and JSON values in what is skipped.
	maxDepth = 32
	// maxElements bounds the elements of all lists and maps of a message: an empty one costs
	// two bytes to send, and much more to hold.
	maxElements = 1 << 18
)

// Enum is a type of the kind int32 that knows the names of its values.
type Enum interface {
	// Names returns the values' names as the .proto file has them.
	Names() map[int32]string
}

// kind is how a field's value is encoded.
type kind uint8

const (
	kindBool kind = iota + 1
	kindInt
	kindSint
	kindUint
	kindDouble
	kindString
	kindBytes
	kindEnum
	kindMessage
	kindTime
	kindMap
)

// The wire types of the binary form.
const (
	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wireGroup  = 3
	wireEnd    = 4
	wire32     = 5
)

// field describes one field of a message.
type field struct {
	index    int
	number   uint64
	kind     kind
	bits     int    // 32 or 64, of an integer
	name     string // as in the .proto file
	json     string
	list     bool
	oneof    string
	rivals   []int // the indexes of the other fields of the oneof
	elem     reflect.Type
	names    map[int32]string // of an enum
	wireType uint64
}

// message describes a message's type.
type message struct {
	fields   []*field // in the order of their numbers
	byNumber map[uint64]*field
	byName   map[string]*field // both names
}

// messages holds what describe has found out, by reflect.Type.
var messages sync.Map

var (
	timeType = reflect.TypeFor[time.Time]()
	enumType = reflect.TypeFor[Enum]()
	mapType  = reflect.TypeFor[map[string]string]()
)

// describe returns the description of a struct type. A type with a tag that makes no sense is a
// mistake of the program, and a panic.
func describe(t reflect.Type) *message {
	if known, ok := messages.Load(t); ok {
		return known.(*message)
	}
	m := &message{byNumber: map[uint64]*field{}, byName: map[string]*field{}}
	for i := range t.NumField() {
		tag, ok := t.Field(i).Tag.Lookup("wire")
		if !ok {
			continue
		}
		f := parseTag(tag)
		f.index = i
		f.setType(t.Field(i).Type)
		m.fields = append(m.fields, f)
		m.byNumber[f.number] = f
		m.byName[f.name], m.byName[f.json] = f, f
	}
	m.findRivals()
	known, _ := messages.LoadOrStore(t, m)
	return known.(*message)
}

func (m *message) findRivals() {
	for _, f := range m.fields {
		for _, other := range m.fields {
			if f != other && f.oneof != "" && f.oneof == other.oneof {
				f.rivals = append(f.rivals, other.index)
			}
		}
	}
}

func parseTag(tag string) *field {
	parts := strings.Split(tag, ",")
	number, err := strconv.ParseUint(parts[0], 10, 29)
	if err != nil || number == 0 || len(parts) < 2 {
		panic(fmt.Sprintf("wire: the tag %q does not begin with a number and a name", tag))
	}
	f := &field{number: number, name: parts[1], json: camelCase(parts[1])}
	for _, option := range parts[2:] {
		group, isOneof := strings.CutPrefix(option, "oneof=")
		switch {
		case isOneof:
			f.oneof = group
		case option == "sint":
			f.kind = kindSint
		default:
			panic(fmt.Sprintf("wire: the tag %q has an unknown option", tag))
		}
	}
	return f
}

// camelCase is the name of a field in JSON: "exit_code" is "exitCode".
func camelCase(name string) string {
	words := strings.Split(name, "_")
	for i, word := range words[1:] {
		if word != "" {
			words[i+1] = strings.ToUpper(word[:1]) + word[1:]
		}
	}
	return strings.Join(words, "")
}

// setType derives the encoding from the Go type.
func (f *field) setType(t reflect.Type) {
	if t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8 {
		f.list, t = true, t.Elem()
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	f.elem = t
	if f.kind == 0 {
		f.kind = kindOf(t)
	}
	if f.kind == kindEnum {
		f.names = reflect.Zero(t).Interface().(Enum).Names()
	}
	f.bits = 64
	if t.Kind() == reflect.Int32 || t.Kind() == reflect.Uint32 {
		f.bits = 32
	}
	f.wireType = f.kind.wireType()
}

func kindOf(t reflect.Type) kind {
	switch {
	case t == timeType:
		return kindTime
	case t == mapType:
		return kindMap
	case t.Implements(enumType):
		return kindEnum
	}
	switch t.Kind() {
	case reflect.Bool:
		return kindBool
	case reflect.Int32, reflect.Int64:
		return kindInt
	case reflect.Uint32, reflect.Uint64:
		return kindUint
	case reflect.Float64:
		return kindDouble
	case reflect.String:
		return kindString
	case reflect.Slice:
		return kindBytes
	case reflect.Struct:
		return kindMessage
	default:
		panic("wire: no encoding for a " + t.String())
	}
}

func (k kind) wireType() uint64 {
	switch k {
	case kindDouble:
		return wire64
	case kindString, kindBytes, kindMessage, kindTime, kindMap:
		return wireBytes
	default:
		return wireVarint
	}
}

// present reports whether a field is sent: one with presence if it is set, another if it is not zero.
func (f *field) present(v reflect.Value) bool {
	if f.kind == kindBytes && f.oneof != "" {
		return !v.IsNil()
	}
	if f.list || f.kind == kindMap || f.kind == kindBytes {
		return v.Len() > 0
	}
	return !v.IsZero()
}

// target returns where a decoded value of the field belongs, and clears the oneof's other fields.
func (f *field) target(in reflect.Value) reflect.Value {
	for _, rival := range f.rivals {
		in.Field(rival).SetZero()
	}
	v := in.Field(f.index)
	if f.list {
		v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		v = v.Index(v.Len() - 1)
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	return v
}

// structOf returns the struct that a message given as a pointer is.
func structOf(pointer any) reflect.Value {
	v := reflect.ValueOf(pointer)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("wire: a message is a pointer to a struct, not a %T", pointer))
	}
	return v.Elem()
}

// budget counts what decoding has made.
type budget int

func (b *budget) take() error {
	if *b++; *b > maxElements {
		return fmt.Errorf("more than %d elements", maxElements)
	}
	return nil
}
