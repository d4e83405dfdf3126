package snapshot

import (
	"os"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest"
)

func TestMain(m *testing.M) { os.Exit(vmtest.Main(m)) }
