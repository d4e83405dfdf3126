package db_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// What the server undoes for another transaction is done again, and nothing else is.
func TestCollisions(t *testing.T) {
	s, account, url := open(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	const once = `
		CREATE SEQUENCE tries; -- which no rollback sets back
		CREATE FUNCTION collide() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF nextval('tries') = 1 THEN
				RAISE EXCEPTION USING ERRCODE = TG_ARGV[0], MESSAGE = TG_ARGV[1];
			END IF;
			RETURN NEW;
		END $$`
	if _, err := conn.Exec(t.Context(), once); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		code, message string
		again         bool
	}{
		{"40P01", "deadlock detected", true},
		{"40001", "could not serialize access", true},
		{"XX000", "new multixact has more than one updating member: 0 3[5605 (nokeyupd), 5607 (keysh), 5607 (nokeyupd)]", true},
		{"XX000", "something else", false},
		{"23514", "a check", false},
	} {
		t.Run(test.code+" "+test.message[:7], func(t *testing.T) {
			sb := create(t, s, account)
			trigger := fmt.Sprintf("CREATE OR REPLACE TRIGGER collide BEFORE UPDATE ON sandboxes FOR EACH ROW EXECUTE FUNCTION collide('%s', '%s')", test.code, test.message)
			if _, err := conn.Exec(t.Context(), trigger+"; ALTER SEQUENCE tries RESTART"); err != nil {
				t.Fatal(err)
			}
			_, err := s.Transition(t.Context(), db.Change{ID: sb.ID, From: sb.State, To: models.Running, Generation: sb.Generation, By: db.By{Actor: "test", Operation: "op"}})
			if again := err == nil; again != test.again {
				t.Errorf("%v; want it done again: %t", err, test.again)
			}
		})
	}
}
