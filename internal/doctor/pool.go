package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// checkPool counts the VMs that wait for sandboxes to be, or are being restored for that. They are folders of the agent's like sandboxes.
func checkPool(_ context.Context, m *machine) Finding {
	const name = "warm pool"
	records, err := filepath.Glob(filepath.Join(m.dataFolder(), "sandboxes", "sb-*", "record.json"))
	if err != nil {
		return warn(name, err.Error(), "give the data folder a name without brackets and stars")
	}
	count, memory := 0, 0
	for _, path := range records {
		var record struct {
			Pooled bool
			Size   models.Size
		}
		text, err := os.ReadFile(path)
		if err == nil && json.Unmarshal(text, &record) == nil && record.Pooled { // what cannot be read is being removed, or is its agent's to tell of
			count++
			memory += record.Size.MemoryMiB
		}
	}
	if count == 0 {
		return ok(name, "empty: VMs are restored ahead of the kinds that were asked for in the last minutes and have a golden snapshot")
	}
	return ok(name, fmt.Sprintf("%d VMs that were restored ahead, of %d MiB together", count, memory))
}

// dataFolder is where an agent keeps what it makes: the data folder, or the volume in it.
func (m *machine) dataFolder() string {
	if volume := m.volume(); volume != "" {
		return volume
	}
	return m.Data
}
