package api

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/pb33f/go-yaml"
	"github.com/pb33f/libopenapi"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/pb33f/libopenapi-validator/schema_validation"
	"github.com/pb33f/libopenapi/datamodel/high/base"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
)

// TestExamples: whatever JSON or stream a call takes or gives has an example in openapi.yaml, and every example is what it is an example of.
func TestExamples(t *testing.T) {
	t.Parallel()
	doc, err := libopenapi.NewDocument(spec)
	if err != nil {
		t.Fatal(err)
	}
	model, err := doc.BuildV3Model()
	if err != nil {
		t.Fatal(err)
	}
	e := examples{t: t, valid: schema_validation.NewSchemaValidator(config.WithFormatAssertions(), config.WithContentAssertions())}
	for path, item := range model.Model.Paths.PathItems.FromOldest() {
		for method, op := range item.GetOperations().FromOldest() {
			call := method + " " + path
			if op.RequestBody != nil {
				e.check(call+", request", op.RequestBody.Content.FromOldest())
			}
			for status, r := range op.Responses.Codes.FromOldest() {
				e.check(call+", "+status, r.Content.FromOldest())
			}
			e.check(call+", default", op.Responses.Default.Content.FromOldest())
		}
	}
	if e.seen < 100 {
		t.Errorf("only %d examples were found", e.seen)
	}
}

type examples struct {
	t     *testing.T
	valid schema_validation.SchemaValidator
	seen  int
}

// check checks the examples of a body, in each of its forms.
func (e *examples) check(where string, forms func(func(string, *v3.MediaType) bool)) {
	e.t.Helper()
	for form, body := range forms {
		at := where + " " + form
		given := given(body)
		switch form {
		case "text/event-stream":
			for _, example := range given {
				e.checkStream(at, example.Value)
			}
		case "application/json":
			schema := body.Schema.Schema()
			for _, example := range given {
				e.checkValue(at, schema, example)
			}
			if len(given) == 0 {
				given = e.checkSchema(at, schema)
			}
		default:
			continue // bytes of the caller's own
		}
		if len(given) == 0 {
			e.t.Errorf("%s has no example", at)
		}
		e.seen += len(given)
	}
}

// given are the examples of a body itself.
func given(body *v3.MediaType) (all []*yaml.Node) {
	if body.Example != nil {
		all = append(all, body.Example)
	}
	for _, example := range body.Examples.FromOldest() {
		all = append(all, example.Value)
	}
	return all
}

// checkSchema checks and returns the examples of a schema; of a list or a choice that has none of its own, those of what it consists of.
func (e *examples) checkSchema(at string, schema *base.Schema) (all []*yaml.Node) {
	if len(schema.Examples) > 0 {
		for _, example := range schema.Examples {
			e.checkValue(at, schema, example)
		}
		return schema.Examples
	}
	for _, one := range schema.OneOf {
		all = append(all, e.checkSchema(at, one.Schema())...)
	}
	if schema.Properties == nil {
		return all
	}
	if items, ok := schema.Properties.Get("items"); ok && items.Schema().Items != nil {
		all = append(all, e.checkSchema(at, items.Schema().Items.A.Schema())...)
	}
	return all
}

func (e *examples) checkValue(at string, schema *base.Schema, example *yaml.Node) {
	var value any
	if err := example.Decode(&value); err != nil {
		e.t.Errorf("%s: %v", at, err)
		return
	}
	if ok, errs := e.valid.ValidateSchemaObject(schema, value); !ok {
		e.t.Errorf("%s: the example %v: %v", at, value, errs[0].SchemaValidationErrors)
	}
}

// checkStream checks that an example is events whose data is JSON.
func (e *examples) checkStream(at, text string) {
	for line := range strings.Lines(text) {
		if data, ok := strings.CutPrefix(line, "data: "); ok && !json.Valid([]byte(data)) {
			e.t.Errorf("%s: no JSON: %s", at, data)
		}
	}
}
