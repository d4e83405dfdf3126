package fctest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

type kind int

const (
	text kind = iota
	boolean
	integer
	enum
	nested
	list // of nested objects
)

// field describes one property of a body.
type field struct {
	name     string
	kind     kind
	required bool
	nullable bool     // null means absent
	min, max uint64   // of an integer
	values   []string // of an enum
	anyCase  bool     // of an enum's values
	fields   schema   // of a nested object, or of each of a list
}

// schema is all that a body may have. Anything else is refused.
type schema []field

// body is a body that passed its schema. Absent properties, and null ones, are not in it.
type body map[string]any

func (b body) has(name string) bool    { _, ok := b[name]; return ok }
func (b body) text(name string) string { s, _ := b[name].(string); return s }
func (b body) flag(name string) bool   { v, _ := b[name].(bool); return v }
func (b body) number(name string) int  { n, _ := b[name].(uint64); return int(n) }

// check returns v as a body, or says what is wrong with it.
func (s schema) check(v any) (body, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("invalid type: %T, expected an object", v)
	}
	for key := range m {
		if !slices.ContainsFunc(s, func(f field) bool { return f.name == key }) {
			return nil, fmt.Errorf("unknown field `%s`", key)
		}
	}
	out := body{}
	for _, f := range s {
		if err := f.into(out, m); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (f field) into(out body, m map[string]any) error {
	v, given := m[f.name]
	if !given || v == nil && f.nullable {
		if f.required {
			return fmt.Errorf("missing field `%s`", f.name)
		}
		return nil
	}
	checked, err := f.check(v)
	if err != nil {
		return fmt.Errorf("field `%s`: %w", f.name, err)
	}
	out[f.name] = checked
	return nil
}

func (f field) check(v any) (any, error) {
	switch s, isText := v.(string); {
	case f.kind == nested:
		return f.fields.check(v)
	case f.kind == list:
		return f.each(v)
	case f.kind == integer:
		return f.number(v)
	case f.kind == boolean:
		if _, ok := v.(bool); ok {
			return v, nil
		}
	case f.kind == text && isText:
		return s, nil
	case f.kind == enum && isText:
		return f.variant(s)
	}
	return nil, fmt.Errorf("invalid type of value %v", v)
}

// each checks the elements of a list.
func (f field) each(v any) (any, error) {
	elements, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("invalid type of value %v, expected a list", v)
	}
	var all []body
	for _, element := range elements {
		b, err := f.fields.check(element)
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

func (f field) number(v any) (any, error) {
	n, ok := v.(json.Number)
	if !ok {
		return nil, fmt.Errorf("invalid type of value %v, expected an integer", v)
	}
	u, err := strconv.ParseUint(n.String(), 10, 64)
	if err != nil || u < f.min || u > f.max {
		return nil, fmt.Errorf("invalid value %s, expected an integer from %d to %d", n, f.min, f.max)
	}
	return u, nil
}

func (f field) variant(s string) (any, error) {
	for _, v := range f.values {
		if s == v || f.anyCase && strings.EqualFold(s, v) {
			return v, nil
		}
	}
	return nil, fmt.Errorf("unknown variant `%s`, expected one of %s", s, strings.Join(f.values, ", "))
}
