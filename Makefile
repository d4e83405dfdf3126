# Wrenn. `make help` lists the targets; README.md names the two that do everything.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

-include .env
export

# Slow builds (guest kernel, images, tools) live outside the checkout, keyed by their inputs.
WRENN_CACHE ?= /var/cache/wrenn
export WRENN_CACHE
# Where scripts/install-deps.sh leaves a link to Go when there is none on the PATH. Not asked for by a
# $(shell ...): that would run before Go is installed.
export PATH := $(WRENN_CACHE)/go/bin:$(PATH)

MODULES := . envd proto sdk/go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# The guest agent has a version of its own: it changes when envd does, not with every commit, and the images with it.
ENVD_VERSION := 0.3.0
LDFLAGS := -X main.version=$(VERSION)
TEST_FLAGS ?=
DEV_DATA ?= build/dev

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z][a-zA-Z0-9_-]*:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  \033[1m%-18s\033[0m %s\n", $$1, $$2}'

# --- the two that do everything -------------------------------------------------------------

.PHONY: demo
demo: deps images build ## set everything up, boot a real sandbox, run code in it, clean up
	@scripts/demo.sh

.PHONY: test
test: deps-test images build ## install what the tests need and run them all, with -race
	@scripts/test.sh $(TEST_FLAGS)

.PHONY: test-all
test-all: test test-images ## the tests, and the smoke test of every image
	@if command -v firecracker >/dev/null; then $(MAKE) test-firecracker; else \
	  echo "test-firecracker left out: no firecracker on the PATH (see README.md)"; fi

.PHONY: test-images
test-images: images ## boot every template and run its smoke test
	@images/smoke.sh

.PHONY: test-firecracker
test-firecracker: deps-test images ## the VM suite against the real Firecracker, in a VM of its own where KVM is not usable
	@scripts/test-firecracker.sh

.PHONY: test-cycles
test-cycles: deps-test images build ## 1,000 cycles of pause, resume, hibernate and fork with what runs killed meanwhile (an hour or more; CYCLES=n)
	@WRENN_CYCLES=$(or $(CYCLES),1000) go test -count=1 -timeout 6h -v -run '^TestCycles$$' ./e2e

.PHONY: test-model
test-model: deps-test ## 100,000 random operations on sandboxes of simulated hosts, held against a model (OPS=n)
	@WRENN_MODEL_OPS=$(or $(OPS),100000) go test -count=1 -timeout 24h -v -run '^TestLife$$' ./internal/lifetest

.PHONY: chaos
chaos: deps-test images build ## half an hour of random work with real sandboxes on three hosts while all parts are killed, stopped and cut off (FOR=30m, SEED=n)
	@WRENN_CHAOS=$(or $(FOR),30m) WRENN_CHAOS_SEED=$(SEED) go test -count=1 -timeout 12h -v -run '^TestChaos$$' ./e2e

.PHONY: bench
bench: deps images build ## measure what SPECIFICATION.md promises; writes build/bench.json
	@scripts/install-deps.sh bench s3
	@scripts/bench.sh

.PHONY: bench-envd
bench-envd: build-envd ## measure envd, or TARGET=http://host:port and TARGET2=… by turns (TOKEN, ENVD_USER, PID, each also with 2; BENCH_FLAGS)
	@go build -o build/tools/bench-envd ./bench/envd
	@build/tools/bench-envd $(if $(TARGET),-target $(TARGET)) $(if $(TARGET2),-target2 $(TARGET2)) \
	  $(if $(TOKEN),-token $(TOKEN)) $(if $(TOKEN2),-token2 $(TOKEN2)) $(if $(PID),-pid $(PID)) $(if $(PID2),-pid2 $(PID2)) \
	  $(if $(ENVD_USER),-user $(ENVD_USER)) $(if $(ENVD_USER2),-user2 $(ENVD_USER2)) $(BENCH_FLAGS)

.PHONY: deps deps-test deps-dev
deps: ## install what running and building needs (Debian, Ubuntu; root)
	@scripts/install-deps.sh base go run
deps-test: deps
	@scripts/install-deps.sh test client s3
deps-dev: deps-test
	@scripts/install-deps.sh dev

# --- build ---------------------------------------------------------------------------------------

.PHONY: build
build: build-envd ## all binaries -> bin/
	@mkdir -p bin
	@go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: build-envd
build-envd: ## the guest agent -> bin/envd, checked to be static
	@mkdir -p bin
	@cd envd && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(ENVD_VERSION)' -o ../bin/envd .
	@if readelf -lW bin/envd | grep -q INTERP; then echo "bin/envd is not static: it asks for a program interpreter" >&2; exit 1; fi

.PHONY: images
images: build-envd ## guest kernel and templates -> build/guest (cached in WRENN_CACHE)
	@images/build.sh

# --- development ---------------------------------------------------------------------------------

.PHONY: dev
dev: deps images build ## everything on this machine, in the foreground: Postgres, Redis, control plane, agent
	@bin/wrenn up --data $(DEV_DATA)

.PHONY: dev-cluster
dev-cluster: deps images build ## two replicas of the control plane and three hosts on this machine, in the foreground (CLUSTER_FLAGS)
	@go build -o build/tools/cluster ./dev/cluster
	@build/tools/cluster --data $(DEV_DATA)-cluster $(CLUSTER_FLAGS)

.PHONY: dev-infra
dev-infra: deps build ## private Postgres and Redis for development, in the background
	@bin/wrenn infra start --data $(DEV_DATA)

.PHONY: dev-down
dev-down: ## end what dev-infra started and remove every sandbox, device and mount of the development folder
	@if [ -x bin/host-agent ] && [ -d $(DEV_DATA) ]; then bin/host-agent purge --data $(DEV_DATA); fi
	@if [ -x bin/wrenn ]; then bin/wrenn infra stop --data $(DEV_DATA); fi

.PHONY: dev-cp
dev-cp: build ## the control plane on the servers of dev-infra, rebuilt and restarted when a file changes
	@eval "$$(bin/wrenn infra env --data $(DEV_DATA))"; \
	  if [ -n "$(NO_RELOAD)" ]; then exec bin/control-plane serve; else exec scripts/tool.sh air -c .air.toml; fi

.PHONY: dev-agent
dev-agent: deps images build ## the host agent (root)
	@exec bin/host-agent serve --data $(DEV_DATA) --listen unix://$(abspath $(DEV_DATA))/agent.sock

.PHONY: dev-envd
dev-envd: build-envd ## envd on TCP 127.0.0.1:49983, without a VM
	@exec bin/envd -listen 127.0.0.1:49983

.PHONY: dev-seed
dev-seed: build ## a development account with an API key
	@eval "$$(bin/wrenn infra env --data $(DEV_DATA))"; bin/control-plane seed

# --- database ------------------------------------------------------------------------------------

.PHONY: migrate-up migrate-down migrate-reset migrate-create
migrate-up: build ## apply all migrations
	@eval "$$(bin/wrenn infra env --data $(DEV_DATA))"; bin/control-plane migrate up
migrate-down: build ## take the last migration back
	@eval "$$(bin/wrenn infra env --data $(DEV_DATA))"; bin/control-plane migrate down
migrate-reset: build ## drop everything and apply again
	@eval "$$(bin/wrenn infra env --data $(DEV_DATA))"; bin/control-plane migrate reset
migrate-create: ## name=xxx: an empty migration with the next number
	@test -n "$(name)" || { echo "usage: make migrate-create name=add_something" >&2; exit 2; }
	@n=$$(printf '%05d' $$(( $$(ls db/migrations/*.sql | wc -l) + 1 ))); f=db/migrations/$${n}_$(name).sql; \
	  printf -- '-- +goose Up\n\n-- +goose Down\n' > $$f; echo $$f

# --- generated code ------------------------------------------------------------------------------

.PHONY: generate
generate: proto sqlc ## everything generated: proto and sqlc

.PHONY: proto
proto: deps-dev ## Go from the .proto files
	@scripts/generate-proto.sh

.PHONY: sqlc
sqlc: ## Go from db/queries
	@scripts/tool.sh sqlc generate -f db/sqlc.yaml

.PHONY: verify
verify: generate ## generated code is what the generators make of its sources
	@git diff --exit-code -- proto/gen db/dbgen || { echo "generated code is stale: commit what 'make generate' made" >&2; exit 1; }
	@test -z "$$(git status --porcelain -- proto/gen db/dbgen)" || { echo "generated files are not committed" >&2; exit 1; }

# --- quality -------------------------------------------------------------------------------------

.PHONY: check
check: fmt vet lint verify test ## what must be green before a commit lands

.PHONY: fmt
fmt: ## every Go file is formatted
	@out=$$(gofmt -l $$(git ls-files '*.go' | grep -v '^proto/gen/')); test -z "$$out" || { echo "not formatted:"; echo "$$out"; exit 1; }

.PHONY: vet
vet: ## go vet, all modules
	@for m in $(MODULES); do (cd $$m && go vet ./...); done

.PHONY: lint
lint: deps-dev ## golangci-lint and shellcheck
	@for m in $(MODULES); do echo "lint $$m"; (cd $$m && $(CURDIR)/scripts/tool.sh golangci-lint run --config $(CURDIR)/.golangci.yml ./...); done
	@git ls-files '*.sh' .ci/run | xargs shellcheck

.PHONY: tidy
tidy: ## go mod tidy, all modules
	@for m in proto envd sdk/go .; do (cd $$m && GOWORK=off go mod tidy); done

# --- deployment ----------------------------------------------------------------------------------

.PHONY: setup-host
setup-host: ## prepare this host for sandboxes (root); SETUP_FLAGS=--check shows what that is, --undo takes it back
	@[ -x bin/host-agent ] || $(MAKE) deps build
	@case '$(SETUP_FLAGS)' in *--check*|*--undo*) ;; *) scripts/install-deps.sh run host ;; esac
	@bin/host-agent setup $(SETUP_FLAGS)

.PHONY: install
install: ## not built yet: binaries and systemd units
	@echo "make install is not built yet (SPECIFICATION.md, 'Deployment'). 'bin/wrenn up' runs everything on one machine." >&2; exit 1
