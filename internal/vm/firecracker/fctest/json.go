package fctest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// parse decodes one JSON value as strictly as Firecracker's decoder does: no key twice, nothing after
// the value, valid UTF-8. Objects become map[string]any, numbers json.Number.
func parse(text []byte) (any, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("the body is not valid UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := value(d)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("trailing characters after the body")
	}
	return v, nil
}

func value(d *json.Decoder) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, unexpected(err)
	}
	switch t {
	case json.Delim('{'):
		return object(d)
	case json.Delim('['):
		return array(d)
	}
	return t, nil
}

func object(d *json.Decoder) (map[string]any, error) {
	m := map[string]any{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, unexpected(err)
		}
		key, ok := t.(string)
		if !ok {
			return nil, fmt.Errorf("key must be a string, not %v", t)
		}
		if _, twice := m[key]; twice {
			return nil, fmt.Errorf("duplicate field `%s`", key)
		}
		if m[key], err = value(d); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return m, unexpected(err)
}

func array(d *json.Decoder) ([]any, error) {
	list := []any{}
	for d.More() {
		v, err := value(d)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := d.Token()
	return list, unexpected(err)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("EOF while parsing a value")
	}
	return err
}
