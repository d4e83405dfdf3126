package api

import (
	"path"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Limits of what a sandbox is described by; openapi.yaml tells them to users.
const (
	maxName          = 128 // characters
	maxTemplate      = 64
	maxMetadata      = 64 // entries
	maxMetadataKey   = 128
	maxMetadataValue = 1024
	maxEnv           = 256  // entries
	maxPath          = 4096 // bytes: PATH_MAX of Linux
)

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// checkText refuses what neither the database nor a guest's kernel takes: NUL.
func checkText(what, s string, most int) error {
	switch {
	case strings.ContainsRune(s, 0):
		return models.Errorf(models.Invalid, "%s must not contain a NUL character", what)
	case most > 0 && utf8.RuneCountInString(s) > most:
		return models.Errorf(models.Invalid, "%s must have at most %d characters", what, most)
	}
	return nil
}

func checkName(name string) error {
	if strings.ContainsFunc(name, unicode.IsControl) {
		return models.Errorf(models.Invalid, "name must not contain control characters")
	}
	return checkText("name", name, maxName)
}

func checkTemplate(name string) error {
	if name == "" {
		return models.Errorf(models.Invalid, "template is required").WithHint("GET /v1/templates lists what there is")
	}
	return checkText("template", name, maxTemplate)
}

func checkMetadata(m map[string]string) error {
	if len(m) > maxMetadata {
		return models.Errorf(models.Invalid, "metadata must have at most %d entries, not %d", maxMetadata, len(m))
	}
	for k, v := range m {
		if k == "" {
			return models.Errorf(models.Invalid, "a key of metadata must not be empty")
		}
		if err := checkText("a key of metadata", k, maxMetadataKey); err != nil {
			return err
		}
		if err := checkText("metadata "+k, v, maxMetadataValue); err != nil {
			return err
		}
	}
	return nil
}

func checkEnv(env map[string]string) error {
	if len(env) > maxEnv {
		return models.Errorf(models.Invalid, "env must have at most %d entries, not %d", maxEnv, len(env))
	}
	for k, v := range env {
		if !envName.MatchString(k) {
			return models.Errorf(models.Invalid, "%q cannot be the name of an environment variable", k).
				WithHint("names are letters, digits and _, and do not begin with a digit")
		}
		if err := checkText("env "+k, v, 0); err != nil {
			return err
		}
	}
	return nil
}

// checkPath refuses what cannot name a file or directory, and "..": a file has one name here, so that what
// is logged and what is opened are the same.
func checkPath(p string) error {
	switch {
	case p == "":
		return models.Errorf(models.Invalid, "path is required").WithHint("…/files?path=/home/user/x or …/files/home/user/x")
	case len(p) > maxPath:
		return models.Errorf(models.Invalid, "path must have at most %d bytes", maxPath)
	case !utf8.ValidString(p):
		return models.Errorf(models.Invalid, "path must be UTF-8")
	}
	for _, element := range strings.Split(p, "/") {
		if element == ".." {
			return models.Errorf(models.Invalid, "path must not contain the element ..")
		}
	}
	return checkText("path", p, 0)
}

// checkContentPath refuses what cannot be the path of a file with a content.
func checkContentPath(p string) error {
	if strings.HasSuffix(p, "/") || path.Clean(p) == "." {
		return models.Errorf(models.Invalid, "%s names a directory", p)
	}
	return nil
}
