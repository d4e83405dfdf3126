package wire

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// UnmarshalJSON decodes the JSON form into msg, a pointer to a struct. Fields that msg does not have are ignored,
// null is as if the field were absent. After an error msg is in part filled.
func UnmarshalJSON(data []byte, msg any) error {
	p := &parser{scanner: scanner{data: data}}
	if err := p.message(structOf(msg), maxDepth); err != nil {
		return err
	}
	return p.finish()
}

// parser fills messages from JSON.
type parser struct {
	scanner
	elements budget
}

// finish makes sure that nothing follows.
func (p *parser) finish() error {
	if p.peek() != 0 || p.pos < len(p.data) {
		return p.fail("something follows the message")
	}
	return nil
}

func (p *parser) message(into reflect.Value, depth int) error {
	if depth == 0 {
		return p.fail("the message is nested too deeply")
	}
	m := describe(into.Type())
	seen := map[string]bool{}
	return p.object(func(name string) error {
		f := m.byName[name]
		if f == nil {
			return p.skip(depth - 1)
		}
		if p.null() {
			return nil
		}
		if seen[f.name] || f.oneof != "" && seen["oneof "+f.oneof] {
			return p.fail("the field " + name + " is there twice, or another of its oneof")
		}
		seen[f.name], seen["oneof "+f.oneof] = true, true
		return p.field(f, into, depth)
	})
}

func (p *parser) field(f *field, in reflect.Value, depth int) error {
	switch {
	case f.kind == kindMap:
		return p.mapField(f.target(in))
	case f.list:
		return p.array(func() error {
			if err := p.elements.take(); err != nil {
				return err
			}
			return p.value(f, f.target(in), depth)
		})
	}
	return p.value(f, f.target(in), depth)
}

func (p *parser) mapField(v reflect.Value) error {
	entries := map[string]string{}
	v.Set(reflect.ValueOf(entries))
	return p.object(func(key string) error {
		if err := p.elements.take(); err != nil {
			return err
		}
		if _, twice := entries[key]; twice {
			return p.fail("a key is there twice")
		}
		text, err := p.text()
		entries[key] = text
		return err
	})
}

// value reads one value of the field's kind.
func (p *parser) value(f *field, v reflect.Value, depth int) error {
	switch f.kind {
	case kindMessage:
		return p.message(v, depth-1)
	case kindString:
		text, err := p.text()
		v.SetString(text)
		return err
	case kindBytes:
		data, err := p.base64()
		v.SetBytes(data)
		return err
	case kindBool:
		return p.boolean(v)
	case kindTime:
		return p.time(v)
	case kindEnum:
		return p.enum(f, v)
	case kindDouble:
		return p.double(v)
	default:
		return p.integer(f, v)
	}
}

func (p *parser) boolean(v reflect.Value) error {
	switch {
	case p.literal("true"):
		v.SetBool(true)
	case p.literal("false"):
		v.SetBool(false)
	default:
		return p.fail("true or false was expected")
	}
	return nil
}

// base64 reads a byte string: standard or URL alphabet, with or without padding.
func (p *parser) base64() ([]byte, error) {
	raw, err := p.rawText()
	if err != nil {
		return nil, err
	}
	encoding := base64.StdEncoding
	if strings.ContainsAny(string(raw), "-_") {
		encoding = base64.URLEncoding
	}
	if len(raw)%4 != 0 {
		encoding = encoding.WithPadding(base64.NoPadding)
	}
	data := make([]byte, encoding.DecodedLen(len(raw)))
	n, err := encoding.Decode(data, raw)
	if err != nil {
		return nil, p.fail("a byte string is not valid base64")
	}
	return data[:n], nil
}

func (p *parser) time(v reflect.Value) error {
	text, err := p.text()
	if err != nil {
		return err
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.UTC().Year() < 1 || t.UTC().Year() > 9999 {
		return p.fail("a point in time is not as RFC 3339 has it")
	}
	v.Set(reflect.ValueOf(t.UTC()))
	return nil
}

func (p *parser) enum(f *field, v reflect.Value) error {
	if p.peek() != '"' {
		return p.integer(f, v)
	}
	text, err := p.text()
	if err != nil {
		return err
	}
	for number, name := range f.names {
		if name == text {
			v.SetInt(int64(number))
			return nil
		}
	}
	return p.fail(fmt.Sprintf("the field %s has no value %.40q", f.name, text))
}

// numeral reads a number, which may be in a string.
func (p *parser) numeral() (string, error) {
	if p.peek() != '"' {
		return p.number()
	}
	text, err := p.text()
	if err != nil {
		return "", err
	}
	inner := scanner{data: []byte(text)}
	if number, err := inner.number(); err == nil && number == text {
		return number, nil
	}
	return text, errNoNumber
}

var errNoNumber = errors.New("a string is not a number")

func (p *parser) double(v reflect.Value) error {
	text, err := p.numeral()
	if errors.Is(err, errNoNumber) {
		special, ok := map[string]float64{"NaN": math.NaN(), "Infinity": math.Inf(1), "-Infinity": math.Inf(-1)}[text]
		if ok {
			v.SetFloat(special)
			return nil
		}
	}
	if err != nil {
		return err
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return p.fail("a number is out of range")
	}
	v.SetFloat(n)
	return nil
}

// integer accepts 1.0 and 1e3 too.
func (p *parser) integer(f *field, v reflect.Value) error {
	text, err := p.numeral()
	if err != nil {
		return err
	}
	text, ok := plainInteger(text)
	if !ok {
		return p.fail("the field " + f.name + " is not an integer")
	}
	if f.kind == kindUint {
		n, err := strconv.ParseUint(text, 10, f.bits)
		v.SetUint(n)
		return p.outOfRange(f, err)
	}
	n, err := strconv.ParseInt(text, 10, f.bits)
	v.SetInt(n)
	return p.outOfRange(f, err)
}

func (p *parser) outOfRange(f *field, err error) error {
	if err != nil {
		return p.fail("the field " + f.name + " is out of range")
	}
	return nil
}

// plainInteger writes a JSON number without fraction and exponent, if its value is an integer of at most 20 digits.
func plainInteger(text string) (string, bool) {
	sign := ""
	if strings.HasPrefix(text, "-") {
		sign, text = "-", text[1:]
	}
	mantissa, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	shift := 0
	if exponent != "" {
		var err error
		if shift, err = strconv.Atoi(exponent); err != nil {
			return "", false
		}
	}
	fraction = strings.TrimRight(fraction, "0")
	digits := strings.TrimLeft(whole+fraction, "0")
	if digits == "" {
		return "0", true
	}
	if shift -= len(fraction); shift < 0 && -shift < len(digits) && strings.Trim(digits[len(digits)+shift:], "0") == "" {
		digits, shift = digits[:len(digits)+shift], 0
	}
	if shift < 0 || shift > 20 || len(digits)+shift > 20 {
		return "", false
	}
	return sign + digits + strings.Repeat("0", shift), true
}
