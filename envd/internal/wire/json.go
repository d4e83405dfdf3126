package wire

import (
	"encoding/base64"
	"math"
	"reflect"
	"strconv"
	"time"
	"unicode/utf8"
)

// AppendJSON appends the JSON form of a message, given as a pointer to its struct.
func AppendJSON(dst []byte, msg any) []byte {
	return appendObject(dst, structOf(msg))
}

func appendObject(dst []byte, v reflect.Value) []byte {
	dst = append(dst, '{')
	start := len(dst)
	for _, f := range describe(v.Type()).fields {
		value := v.Field(f.index)
		if !f.present(value) {
			continue
		}
		if len(dst) > start {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, '"'), f.json...), '"', ':')
		dst = f.appendJSON(dst, value)
	}
	return append(dst, '}')
}

func (f *field) appendJSON(dst []byte, v reflect.Value) []byte {
	switch {
	case f.kind == kindMap:
		return appendMapJSON(dst, v.Interface().(map[string]string))
	case f.list:
		dst = append(dst, '[')
		for i := range v.Len() {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = f.appendValue(dst, v.Index(i))
		}
		return append(dst, ']')
	}
	return f.appendValue(dst, v)
}

func appendMapJSON(dst []byte, entries map[string]string) []byte {
	dst = append(dst, '{')
	for i, key := range sortedKeys(entries) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendText(dst, key), ':')
		dst = appendText(dst, entries[key])
	}
	return append(dst, '}')
}

func (f *field) appendValue(dst []byte, v reflect.Value) []byte {
	v = reflect.Indirect(v)
	switch f.kind {
	case kindBool:
		return strconv.AppendBool(dst, v.Bool())
	case kindInt, kindSint:
		return f.quoteLong(dst, func(dst []byte) []byte { return strconv.AppendInt(dst, v.Int(), 10) })
	case kindUint:
		return f.quoteLong(dst, func(dst []byte) []byte { return strconv.AppendUint(dst, v.Uint(), 10) })
	case kindDouble:
		return appendDouble(dst, v.Float())
	case kindString:
		return appendText(dst, v.String())
	case kindBytes:
		return append(base64.StdEncoding.AppendEncode(append(dst, '"'), v.Bytes()), '"')
	case kindEnum:
		if name, ok := f.names[int32(v.Int())]; ok {
			return appendText(dst, name)
		}
		return strconv.AppendInt(dst, v.Int(), 10)
	case kindTime:
		return appendTimeJSON(dst, v.Interface().(time.Time))
	default:
		return appendObject(dst, v)
	}
}

// quoteLong makes a string of an integer of 64 bits: JavaScript's numbers do not hold all of them.
func (f *field) quoteLong(dst []byte, number func([]byte) []byte) []byte {
	if f.bits == 32 {
		return number(dst)
	}
	return append(number(append(dst, '"')), '"')
}

func appendDouble(dst []byte, n float64) []byte {
	switch {
	case math.IsNaN(n):
		return append(dst, `"NaN"`...)
	case math.IsInf(n, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(n, -1):
		return append(dst, `"-Infinity"`...)
	}
	format := byte('f')
	if abs := math.Abs(n); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, n, format, -1, 64)
}

// appendTimeJSON writes RFC 3339 in UTC with 0, 3, 6 or 9 digits of the fraction.
func appendTimeJSON(dst []byte, t time.Time) []byte {
	layout := "2006-01-02T15:04:05"
	switch nanos := t.Nanosecond(); {
	case nanos == 0:
	case nanos%1e6 == 0:
		layout += ".000"
	case nanos%1e3 == 0:
		layout += ".000000"
	default:
		layout += ".000000000"
	}
	return append(t.UTC().AppendFormat(append(dst, '"'), layout), 'Z', '"')
}

const hexDigits = "0123456789abcdef"

// appendText writes a JSON string (RFC 8259, 7).
func appendText(dst []byte, s string) []byte {
	dst = append(dst, '"')
	done := 0
	for i := 0; i < len(s); {
		r, n := rune(s[i]), 1
		if r >= utf8.RuneSelf {
			r, n = utf8.DecodeRuneInString(s[i:])
		}
		broken := r == utf8.RuneError && n == 1
		if r >= ' ' && r != '"' && r != '\\' && !broken {
			i += n
			continue
		}
		dst = appendEscape(append(dst, s[done:i]...), r)
		i += n
		done = i
	}
	return append(append(dst, s[done:]...), '"')
}

func appendEscape(dst []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(dst, '\\', byte(r))
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	case utf8.RuneError:
		return append(dst, "\uFFFD"...)
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[r>>4], hexDigits[r&15])
}
