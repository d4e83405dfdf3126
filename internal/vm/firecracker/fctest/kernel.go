package fctest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// Kernel is an ELF file with one segment, which satisfies whoever does not run it.
func Kernel() []byte {
	const start, size = 4096, 8192
	header := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	segment := elf.Prog64{Type: uint32(elf.PT_LOAD), Off: start, Filesz: size, Memsz: size}
	var b bytes.Buffer
	for _, part := range []any{header, segment} {
		_ = binary.Write(&b, binary.LittleEndian, part) // a buffer takes all, and the types are of fixed sizes
	}
	b.Write(make([]byte, start+size-b.Len()))
	return b.Bytes()
}
