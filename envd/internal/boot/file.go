package boot

import (
	"bytes"
	"os"
	"path/filepath"
)

// writeKnob writes a value to a file of procfs, sysfs or a cgroup, in one write.
func writeKnob(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// replaceFile gives path a new content at once, unless it has it already: an image that
// is right stays untouched on its disk. A symbolic link is replaced, not followed.
func replaceFile(path string, content []byte) error {
	info, err := os.Lstat(path)
	if err == nil && info.Mode().IsRegular() {
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
			return nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temporary := path + ".envd"
	if err := os.WriteFile(temporary, content, 0o644); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		_ = os.Remove(temporary)
		return err
	}
	return nil
}
