module github.com/wrenn-sandbox/wrenn/sdk/go

go 1.26

require github.com/coder/websocket v1.8.15
