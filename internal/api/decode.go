package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// decodeJSON reads a body that is one JSON object with no members but those of into,
// each at most once and none null.
func (s *Server) decodeJSON(w http.ResponseWriter, r *http.Request, into any) error {
	if err := jsonContent(r); err != nil {
		return err
	}
	b, err := s.readBody(w, r)
	if err != nil {
		return err
	}
	if !utf8.Valid(b) {
		return models.Errorf(models.Invalid, "the body is not UTF-8")
	}
	if err := checkMembers(b, memberNames(into)); err != nil {
		return err
	}
	return typeError(json.Unmarshal(b, into))
}

func jsonContent(r *http.Request) error {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil && kind == "application/json" {
		return nil
	}
	return withStatus(http.StatusUnsupportedMediaType,
		models.Errorf(models.Invalid, "the body must be JSON").WithHint("send Content-Type: application/json"))
}

func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	// net/http lifts the deadline at the end of the body, when it begins to watch for the client going away.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.Limits.Idle)) // unsupported only in unit tests
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.Limits.JSONBody))
	if err != nil {
		return nil, bodyError(err)
	}
	return b, nil
}

// bodyError says why a body could not be read.
func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return withStatus(http.StatusRequestEntityTooLarge,
			models.Errorf(models.Invalid, "the body is larger than %d bytes", tooLarge.Limit))
	}
	return models.Errorf(models.Invalid, "the body ended early or came too slowly").WithCause(err)
}

// memberNames are the JSON names of the fields of the struct that into points to, those of embedded structs too.
func memberNames(into any) []string {
	var names []string
	for _, field := range reflect.VisibleFields(reflect.TypeOf(into).Elem()) {
		if !field.Anonymous {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			names = append(names, name)
		}
	}
	return names
}

func checkMembers(b []byte, known []string) error {
	d := json.NewDecoder(bytes.NewReader(b))
	first, err := d.Token()
	if errors.Is(err, io.EOF) {
		return models.Errorf(models.Invalid, "the body is empty").WithHint("send a JSON object")
	}
	if err != nil {
		return syntaxError(err)
	}
	if first != json.Delim('{') {
		return models.Errorf(models.Invalid, "the body must be a JSON object")
	}
	seen := map[string]bool{}
	for d.More() {
		if err := checkMember(d, known, seen); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return syntaxError(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return models.Errorf(models.Invalid, "there is something after the JSON object")
	}
	return nil
}

func checkMember(d *json.Decoder, known []string, seen map[string]bool) error {
	token, err := d.Token()
	if err != nil {
		return syntaxError(err)
	}
	name, _ := token.(string) // the decoder lets nothing else be a key
	var value json.RawMessage
	if err := d.Decode(&value); err != nil {
		return syntaxError(err)
	}
	switch {
	case !slices.Contains(known, name):
		return models.Errorf(models.Invalid, "there is no member %q", name).WithHint("there are: %s", strings.Join(known, ", "))
	case seen[name]:
		return models.Errorf(models.Invalid, "the member %q is there twice", name)
	case string(value) == "null":
		return models.Errorf(models.Invalid, "%s must not be null", name).WithHint("leave it out")
	}
	seen[name] = true
	return noNullWithin(name, value)
}

// noNullWithin refuses an object or an array with a null in it, which would be taken for an empty text.
func noNullWithin(name string, value json.RawMessage) error {
	var object map[string]json.RawMessage
	_ = json.Unmarshal(value, &object) // what is no object is no matter of this
	for key, v := range object {
		if string(v) == "null" {
			return models.Errorf(models.Invalid, "%s: %s must not be null", name, key).WithHint("leave it out")
		}
	}
	var array []json.RawMessage
	_ = json.Unmarshal(value, &array) // likewise
	for i, v := range array {
		if string(v) == "null" {
			return models.Errorf(models.Invalid, "%s: element %d must not be null", name, i+1)
		}
	}
	return nil
}

// unmarshalMember reads the object that is the value of the member name, as strictly as decodeJSON the whole.
func unmarshalMember(name string, b []byte, into any) error {
	if len(b) == 0 || b[0] != '{' {
		return models.Errorf(models.Invalid, "%s must be an object", name)
	}
	if err := checkMembers(b, memberNames(into)); err != nil {
		e := models.AsError(err)
		return models.Errorf(e.Code, "%s: %s", name, e.Message).WithHint("%s", e.Hint)
	}
	err := json.Unmarshal(b, into)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		wrong.Field = name + "." + wrong.Field
	}
	return typeError(err)
}

func syntaxError(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return models.Errorf(models.Invalid, "the body is not JSON: %v (at byte %d)", syntax, syntax.Offset)
	}
	return models.Errorf(models.Invalid, "the body is not JSON: it ends early").WithCause(err)
}

func typeError(err error) error {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return err
	}
	got, _, _ := strings.Cut(wrong.Value, " ") // "number 1.5"
	want := map[reflect.Kind]string{
		reflect.Int: "an integer", reflect.Float64: "a number", reflect.String: "a string",
		reflect.Slice: "an array of strings", reflect.Map: "an object of strings", reflect.Bool: "true or false", reflect.Struct: "an object",
	}[wrong.Type.Kind()]
	if got == "number" && wrong.Type.Kind() == reflect.Int {
		got = wrong.Value
	}
	return models.Errorf(models.Invalid, "%s must be %s, not %s", wrong.Field, want, got)
}

// query checks that a request has no query parameters but those known, each once unless it
// is in repeated.
func query(r *http.Request, known []string, repeated ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, models.Errorf(models.Invalid, "the query is malformed")
	}
	for name, values := range q {
		if !slices.Contains(known, name) && !slices.Contains(repeated, name) {
			e := models.Errorf(models.Invalid, "there is no query parameter %q", name)
			return nil, e.WithHint("there are: %s", orNone(append(slices.Clone(known), repeated...)))
		}
		if len(values) > 1 && !slices.Contains(repeated, name) {
			return nil, models.Errorf(models.Invalid, "the query parameter %q is there twice", name)
		}
	}
	return q, nil
}

func noQuery(r *http.Request) error {
	_, err := query(r, nil)
	return err
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
