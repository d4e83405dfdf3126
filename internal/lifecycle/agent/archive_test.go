package agent

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/object"
	"github.com/wrenn-sandbox/wrenn/internal/object/folder"
)

// objects is an object store in a folder, of which calls can be made to fail or to wait.
type objects struct {
	object.Store
	dir string

	mu   sync.Mutex // guards hook
	hook func(ctx context.Context, verb, key string) error
}

func newObjects(t *testing.T) *objects {
	t.Helper()
	dir := t.TempDir()
	store, err := folder.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &objects{Store: store, dir: dir}
}

// on has hook called at the begin of each call that puts or gets, whose error is the call's.
func (o *objects) on(hook func(ctx context.Context, verb, key string) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hook = hook
}

func (o *objects) call(ctx context.Context, verb, key string) error {
	o.mu.Lock()
	hook := o.hook
	o.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(ctx, verb, key)
}

func (o *objects) Put(ctx context.Context, key string, data []byte) error {
	if err := o.call(ctx, "put", key); err != nil {
		return err
	}
	return o.Store.Put(ctx, key, data)
}

func (o *objects) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	if err := o.call(ctx, "get", key); err != nil {
		return nil, err
	}
	return o.Store.Get(ctx, key, limit)
}

// files returns the paths of objects.
func (o *objects) files(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(o.dir, pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("no %s among the objects, %v", pattern, err)
	}
	return found
}

// asleep returns a sandbox that is paused, with text on its disk.
func (r *rig) asleep(text string) Sandbox {
	r.t.Helper()
	s, err := r.create()
	if err != nil {
		r.t.Fatal(err)
	}
	r.mark(s.ID, text)
	r.pause(s.ID)
	return s
}

// store stores a paused sandbox.
func (r *rig) store(sb id.Sandbox) models.Archive {
	r.t.Helper()
	got, err := r.agent.Store(r.t.Context(), sb)
	if err != nil || got.State != Paused || got.Archive == nil {
		r.t.Fatalf("store: %+v, %v", got, err)
	}
	return *got.Archive
}

// hibernated returns a sandbox that is in the object store alone.
func (r *rig) hibernated(text string) (id.Sandbox, string) {
	r.t.Helper()
	s := r.asleep(text)
	key := r.store(s.ID).Key
	if err := r.agent.Release(r.t.Context(), s.ID, key); err != nil {
		r.t.Fatal(err)
	}
	return s.ID, key
}

func (r *rig) fetch(sb id.Sandbox, key string) (Sandbox, error) {
	return r.agent.Fetch(r.t.Context(), FetchRequest{ID: sb, Key: key, Network: models.DefaultNetwork()})
}

// TestFetchDuringRelease: who wants a sandbox back whose host is about to let it go gets it, and learns nothing of that.
func TestFetchDuringRelease(t *testing.T) {
	r := newRig(t)
	s := r.asleep("kept")
	stored := r.store(s.ID)
	here := r.agent.mustFind(s.ID)
	if err := here.acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	fetched := make(chan error, 1)
	go func() {
		_, err := r.fetch(s.ID, stored.Key)
		fetched <- err
	}()
	time.Sleep(50 * time.Millisecond) // for it to find the sandbox; where that takes longer, this tests less
	if err := r.agent.dismantle(t.Context(), here); err != nil {
		t.Fatal(err)
	}
	here.release()
	if err := <-fetched; err != nil {
		t.Fatal(err)
	}
	r.is(s.ID, Paused)
}

// TestStoreAndFetch: what was stored stays until it is released, and goes on on another host, with the address that it has there; stored again, only what changed is sent.
func TestStoreAndFetch(t *testing.T) {
	r, second := newRig(t), newRig(t)
	second.close()
	second.objects, second.subnet = r.objects, "10.0.1.0/24"
	second.open()
	s := r.asleep("kept")
	first := r.store(s.ID)
	if again := r.store(s.ID); first.SentBytes == 0 || again.SentBytes != 0 || again.Key != first.Key {
		t.Errorf("stored as %+v, and again as %+v", first, again)
	}
	r.close()
	r.open()
	if now := r.is(s.ID, Paused); now.Archive == nil || now.Archive.Key != first.Key {
		t.Errorf("under the next agent it is stored as %+v", now.Archive)
	}
	if err := r.agent.Release(t.Context(), s.ID, first.Key+"0"); models.CodeOf(err) != models.Conflict {
		t.Errorf("release of what is not stored: %v", err)
	}
	r.is(s.ID, Paused)
	for range 2 {
		if err := r.agent.Release(t.Context(), s.ID, first.Key); err != nil {
			t.Errorf("release: %v", err)
		}
	}
	if left := r.left(); len(left) > 0 {
		t.Errorf("there is left %v", left)
	}

	for range 2 {
		got, err := second.fetch(s.ID, first.Key)
		if err != nil || got.State != Paused || got.Size.MemoryMiB != 128 || got.Size.DiskMiB != 1 || got.Template != "tiny" {
			t.Fatalf("fetch: %+v, %v", got, err)
		}
	}
	second.driver.resumes = make(chan []byte, 1)
	now, err := second.agent.Resume(t.Context(), s.ID)
	if err != nil || now.State != Running || now.Guest == s.Guest || now.Archive != nil {
		t.Fatalf("resume: %+v, %v; its address was %s", now, err, s.Guest)
	}
	var told struct {
		Network struct{ DNS []string }
	}
	if err := json.Unmarshal(<-second.driver.resumes, &told); err != nil || len(told.Network.DNS) != 1 {
		t.Errorf("its guest was told of the name servers %+v, %v", told, err)
	}
	second.driver.resumes = nil
	second.marked(s.ID, "kept")
	if _, err := second.fetch(s.ID, first.Key); err != nil {
		t.Errorf("fetch of what runs from it: %v", err)
	}
	if err := second.agent.Release(t.Context(), s.ID, first.Key); models.CodeOf(err) != models.Conflict {
		t.Errorf("release of what runs: %v", err)
	}
	if _, err := second.agent.Pause(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := second.fetch(s.ID, first.Key); models.CodeOf(err) != models.Conflict {
		t.Errorf("fetch of an earlier sleep: %v", err)
	}
	if next := second.store(s.ID); next.Key == first.Key || next.SentBytes >= first.SentBytes {
		t.Errorf("stored again as %+v, after %+v", next, first)
	}
}

// TestStoreThatFails leaves a sandbox that is paused as it was; the next attempt goes on.
func TestStoreThatFails(t *testing.T) {
	r := newRig(t)
	s := r.asleep("kept")
	for _, broken := range []string{"leases/", "chunks/", "manifests/"} { // at its begin, in between and at its end
		r.objects.on(func(_ context.Context, verb, key string) error {
			if verb == "put" && strings.HasPrefix(key, broken) {
				return models.Errorf(models.Unavailable, "the object store cannot be reached")
			}
			return nil
		})
		if _, err := r.agent.Store(t.Context(), s.ID); models.CodeOf(err) != models.Unavailable {
			t.Errorf("no %s: %v", broken, err)
		}
		if now := r.is(s.ID, Paused); now.Reason != "the object store cannot be reached" || now.Archive != nil {
			t.Errorf("no %s: it is %+v", broken, now)
		}
	}
	r.objects.on(nil)
	r.store(s.ID)
	r.resume(s.ID)
	r.marked(s.ID, "kept")
	if _, err := r.agent.Store(t.Context(), s.ID); models.CodeOf(err) != models.Precondition {
		t.Errorf("store of what runs: %v", err)
	}
	r.agent.cfg.Archive = nil
	if _, err := r.agent.Store(t.Context(), s.ID); models.CodeOf(err) != models.Precondition || !strings.Contains(models.AsError(err).Hint, "WRENN_OBJECTS") {
		t.Errorf("store without an object store: %v", err)
	}
}

// TestStoreGivesWay: a resume, a destroy and the agent's end do not wait for an upload.
func TestStoreGivesWay(t *testing.T) {
	r := newRig(t)
	s := r.asleep("kept")
	store := func(during func()) error {
		under := make(chan struct{})
		var once sync.Once
		r.objects.on(func(ctx context.Context, verb, key string) error {
			if verb == "put" && strings.HasPrefix(key, "chunks/") {
				once.Do(func() { close(under) })
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		ended := make(chan error, 1)
		go func() {
			_, err := r.agent.Store(t.Context(), s.ID)
			ended <- err
		}()
		<-under
		if now, err := r.agent.Sandbox(s.ID); err != nil || now.State != Storing {
			t.Errorf("it is %+v, %v", now, err)
		}
		during()
		return <-ended
	}
	if err := store(func() { r.resume(s.ID) }); models.CodeOf(err) != models.Conflict {
		t.Errorf("a resume: %v", err)
	}
	r.marked(s.ID, "kept")
	r.pause(s.ID)
	if err := store(func() { r.close(); r.open() }); models.CodeOf(err) != models.Conflict {
		t.Errorf("the agent's end: %v", err)
	}
	r.is(s.ID, Paused)
	err := store(func() {
		if existed, err := r.agent.Destroy(t.Context(), s.ID, 0); !existed || err != nil {
			t.Errorf("destroy: %v, %v", existed, err)
		}
	})
	if models.CodeOf(err) != models.Conflict {
		t.Errorf("a destroy: %v", err)
	}
	if left := r.left(); len(left) > 0 {
		t.Errorf("there is left %v", left)
	}
}

// TestFetchThatFails leaves nothing, whatever is wrong, and says what; when it is right again the sandbox goes on.
func TestFetchThatFails(t *testing.T) {
	r := newRig(t)
	sb, key := r.hibernated("kept")
	chunk, manifest := r.objects.files(t, "chunks/*/*")[0], r.objects.files(t, "manifests/"+key)[0]
	other, otherKey := r.hibernated("other")
	rename := func(from, to string) func() { return func() { _ = os.Rename(from, to) } }
	text, err := os.ReadFile(chunk)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		set, unset func()
		key        string
		code       models.Code
		text       string
	}{
		"manifest missing": {rename(manifest, manifest+"x"), rename(manifest+"x", manifest), key, models.Precondition, "missing from the object store"},
		"chunk missing":    {rename(chunk, chunk+"x"), rename(chunk+"x", chunk), key, models.Precondition, "is missing from the object store"},
		"chunk damaged": {
			func() { _ = os.WriteFile(chunk, text[:len(text)/2], 0o600) }, func() { _ = os.WriteFile(chunk, text, 0o600) },
			key, models.Precondition, "is damaged",
		},
		"of another sandbox": {func() {}, func() {}, otherKey, models.Precondition, "is not the sandbox"},
		"another VMM":        {func() { r.driver.version = "2" }, func() { r.driver.version = "" }, key, models.Precondition, "version"},
		"no VMM":             {func() { r.driver.noRestore = "it is too old" }, func() { r.driver.noRestore = "" }, key, models.Precondition, "too old"},
		"store away": {
			func() {
				r.objects.on(func(context.Context, string, string) error {
					return models.Errorf(models.Deadline, "the object store did not answer in time")
				})
			},
			func() { r.objects.on(nil) }, key, models.Deadline, "did not answer",
		},
	} {
		c.set()
		if _, err := r.fetch(sb, c.key); models.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
		if left := r.left(); len(left) > 0 {
			t.Errorf("%s: there is left %v", name, left)
		}
		c.unset()
	}
	for id, key := range map[id.Sandbox]string{sb: key, other: otherKey} {
		if got, err := r.fetch(id, key); err != nil || got.State != Paused {
			t.Errorf("fetch: %+v, %v", got, err)
		}
	}
	r.resume(sb)
	r.marked(sb, "kept")
}

// TestFetchWithoutItsTemplate: a disk that is a changed template's cannot be made without that, and can be with it, also when it is not the current one any more.
func TestFetchWithoutItsTemplate(t *testing.T) {
	r, second := newRig(t), newRig(t)
	second.close()
	second.objects, second.digest = r.objects, "sha256:fedcba9876543210"
	if err := os.RemoveAll(filepath.Join(second.dir, "images")); err != nil {
		t.Fatal(err)
	}
	second.open()
	sb, key := r.hibernated("kept")
	if _, err := second.fetch(sb, key); models.CodeOf(err) != models.Precondition || !strings.Contains(err.Error(), "needs the template tiny") {
		t.Errorf("on a host that never had it: %v", err)
	}
	r.close()
	r.digest = second.digest
	r.open()
	if _, err := r.fetch(sb, key); err != nil {
		t.Errorf("on a host that has another one by now: %v", err)
	}
}

// TestAgentKilledDuringFetch: what was half fetched is removed, and can be fetched again.
func TestAgentKilledDuringFetch(t *testing.T) {
	r := newRig(t)
	sb, key := r.hibernated("kept")
	if _, err := r.fetch(sb, key); err != nil {
		t.Fatal(err)
	}
	rec, _, err := readRecord(r.agent.dir(sb))
	rec.State = Fetching
	r.close()
	if err == nil {
		err = rec.write(r.agent.dir(sb))
	}
	if err != nil {
		t.Fatal(err)
	}
	r.open()
	if left := r.left(); len(left) > 0 {
		t.Errorf("there is left %v", left)
	}
	if _, err := r.fetch(sb, key); err != nil {
		t.Error(err)
	}
	r.resume(sb)
	r.marked(sb, "kept")
}

// TestDestroyBeatsFetch: it ends what is under way, and nothing is left.
func TestDestroyBeatsFetch(t *testing.T) {
	r := newRig(t)
	sb, key := r.hibernated("kept")
	under := make(chan struct{})
	var once sync.Once
	r.objects.on(func(ctx context.Context, _, key string) error {
		if strings.HasPrefix(key, "chunks/") {
			once.Do(func() { close(under) })
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	ended := make(chan error, 1)
	go func() {
		_, err := r.fetch(sb, key)
		ended <- err
	}()
	<-under
	if existed, err := r.agent.Destroy(t.Context(), sb, 0); !existed || err != nil {
		t.Errorf("destroy: %v, %v", existed, err)
	}
	if err := <-ended; models.CodeOf(err) != models.Conflict {
		t.Errorf("fetch: %v", err)
	}
	if left := r.left(); len(left) > 0 {
		t.Errorf("there is left %v", left)
	}
}
