package filesystem

import (
	"errors"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// metadataPrefix begins the names of the extended attributes that hold metadata, as in E2B's envd.
const metadataPrefix = "user.e2b."

// The protocol's limits. A name of xattr(7) has at most 255 bytes, and ext4 has one block for all
// attributes of a file.
const (
	maxMetadataKey = 255 - len(metadataPrefix)
	maxMetadata    = 4096
)

// CheckMetadata returns an *Error unless metadata is what the protocol allows: printable ASCII within
// its limits.
func CheckMetadata(metadata map[string]string) error {
	total := 0
	for key, value := range metadata {
		switch {
		case key == "":
			return errorf(Invalid, "metadata key must not be empty")
		case len(key) > maxMetadataKey:
			return errorf(Invalid, "metadata key %q exceeds %d bytes", key, maxMetadataKey)
		case !printable(key):
			return errorf(Invalid, "metadata key %q is not printable ASCII", key)
		case !printable(value):
			return errorf(Invalid, "metadata value for key %q is not printable ASCII", key)
		}
		total += len(metadataPrefix) + len(key) + len(value)
	}
	if total > maxMetadata {
		return errorf(Invalid, "total metadata size %d exceeds %d bytes", total, maxMetadata)
	}
	return nil
}

func printable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 || r > 0x7e })
}

// WriteMetadata adds metadata to a file that has none. A file system without extended
// attributes keeps none, which is no error.
func WriteMetadata(file *os.File, metadata map[string]string) error {
	for key, value := range metadata {
		err := unix.Fsetxattr(int(file.Fd()), metadataPrefix+key, []byte(value), 0)
		if errors.Is(err, unix.ENOTSUP) {
			return nil
		}
		if err != nil {
			return os.NewSyscallError("fsetxattr", err)
		}
	}
	return nil
}

// ReadMetadata returns the metadata of the file at path, of a symbolic link that of what it leads
// to; nil where there is none or it cannot be read. Programs in the guest may write such attributes
// too: what is not UTF-8 cannot be said in the protocol and is left out.
func ReadMetadata(path string) map[string]string {
	size, err := unix.Listxattr(path, nil)
	if err != nil || size == 0 {
		return nil
	}
	names := make([]byte, size)
	if size, err = unix.Listxattr(path, names); err != nil {
		return nil
	}
	var metadata map[string]string
	for name := range strings.SplitSeq(string(names[:size]), "\x00") {
		key, ours := strings.CutPrefix(name, metadataPrefix)
		value, ok := "", false
		if ours && utf8.ValidString(key) {
			value, ok = readAttribute(path, name)
		}
		if !ok {
			continue
		}
		if metadata == nil {
			metadata = map[string]string{}
		}
		metadata[key] = value
	}
	return metadata
}

func readAttribute(path, name string) (string, bool) {
	value := make([]byte, maxMetadata)
	n, err := unix.Getxattr(path, name, value)
	if err != nil || !utf8.Valid(value[:n]) { // gone, or longer than the protocol allows
		return "", false
	}
	return string(value[:n]), true
}
