module github.com/wrenn-sandbox/wrenn/envd

go 1.26.0

require (
	connectrpc.com/connect v1.21.1
	github.com/google/go-cmp v0.7.0
	github.com/hashicorp/yamux v0.1.2
	github.com/wrenn-sandbox/wrenn/proto v0.0.0
	golang.org/x/sys v0.49.0
)

require google.golang.org/protobuf v1.36.12

require (
	golang.org/x/net v0.62.0
	golang.org/x/text v0.43.0 // indirect
)

replace github.com/wrenn-sandbox/wrenn/proto => ../proto
