module github.com/wrenn-sandbox/wrenn/sdk/go

go 1.26
