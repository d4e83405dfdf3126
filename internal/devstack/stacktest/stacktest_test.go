package stacktest_test

import (
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
)

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m)) }

// Each of these tests leaves data behind and finds none of the others'.
func TestDatabasesAreFreshA(t *testing.T) { leaveData(t) }
func TestDatabasesAreFreshB(t *testing.T) { leaveData(t) }

func TestTwoAtOnceDoNotMeet(t *testing.T) {
	for _, name := range []string{"one", "two", "three"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaveData(t)
		})
	}
}

func leaveData(t *testing.T) {
	t.Helper()
	db := stacktest.ForTest(t)
	conn, err := pgx.Connect(t.Context(), db.PostgresURL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "CREATE TABLE left_behind (n int)"); err != nil {
		t.Errorf("the database was used before: %v", err)
	}
	opts, err := redis.ParseURL(db.RedisURL)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opts)
	t.Cleanup(func() { client.Close() })
	if set, err := client.SetNX(t.Context(), "left-behind", 1, 0).Result(); err != nil || !set {
		t.Errorf("the Redis database was used before (set %v, error %v)", set, err)
	}
}
