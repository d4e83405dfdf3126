package models

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestAsErrorFindsTheCodedError(t *testing.T) {
	coded := Errorf(Exhausted, "no more than %d", 3).WithHint("wait").WithCause(errors.New("row lock"))
	got := AsError(fmt.Errorf("create: %w", coded))
	if got.Code != Exhausted || got.Message != "no more than 3" || got.Hint != "wait" {
		t.Errorf("AsError lost something: %+v", got)
	}
	if !strings.Contains(got.Error(), "row lock") || strings.Contains(got.Message, "row lock") {
		t.Errorf("the cause belongs in the log text %q and not in the message %q", got.Error(), got.Message)
	}
}

func TestUncodedErrorsTellTheUserNothing(t *testing.T) {
	got := AsError(errors.New("password=secret"))
	if got.Code != Internal || strings.Contains(got.Message, "secret") {
		t.Errorf("an uncoded error became %+v", got)
	}
	if c := CodeOf(fmt.Errorf("call: %w", context.DeadlineExceeded)); c != Deadline {
		t.Errorf("an ended deadline is coded %s", c)
	}
	if c := CodeOf(context.Canceled); c != Unavailable {
		t.Errorf("a cancelled call is coded %s", c)
	}
}

func TestCheckSizeNamesTheField(t *testing.T) {
	ok := Size{VCPUs: 1, MemoryMiB: 256}
	if err := CheckSize(ok); err != nil {
		t.Errorf("CheckSize(%+v): %v", ok, err)
	}
	for field, size := range map[string]Size{
		"vcpus":      {VCPUs: 0, MemoryMiB: 256},
		"memory_mib": {VCPUs: 1, MemoryMiB: MaxMemoryMiB + 1},
		"disk_mib":   {VCPUs: 1, MemoryMiB: 256, DiskMiB: -1},
	} {
		if err := CheckSize(size); CodeOf(err) != Invalid || !strings.Contains(err.Error(), field) {
			t.Errorf("CheckSize(%+v) = %v, want an invalid error that names %s", size, err, field)
		}
	}
}
