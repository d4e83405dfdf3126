// Package config reads the settings of the binaries: one struct for each, filled from its
// defaults, then a YAML file, then the environment; flags, which the binary declares with the
// result as their defaults, come last.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/caarlos0/env/v11"
	"gopkg.in/yaml.v3"
)

// FileVariable names the environment variable that names the configuration file; unset means none.
const FileVariable = "WRENN_CONFIG"

// load fills cfg, which holds the defaults, from the file and the environment. A key that the
// struct does not know, or a value of the wrong type, is an error that names it.
func load(cfg any) error {
	if path := os.Getenv(FileVariable); path != "" {
		if err := loadFile(cfg, path); err != nil {
			return err
		}
	}
	if err := env.Parse(cfg); err != nil {
		return fmt.Errorf("read the environment: %w", err)
	}
	return nil
}

func loadFile(cfg any, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(cfg); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the configuration %s: %w", path, err)
	}
	return nil
}
