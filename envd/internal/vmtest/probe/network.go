package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"
)

// ping sends an ICMP echo to an address and waits for the answer.
func ping(args []string) error {
	conn, err := net.Dial("ip4:icmp", args[0])
	if err != nil {
		return err
	}
	message := []byte{8, 0, 0, 0, 0, 1, 0, 1} // echo request, checksum to come, id 1, number 1
	message[2], message[3] = 0xf7, 0xfd
	reply := make([]byte, 100)
	for range 20 {
		if _, err := conn.Write(message); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		n, err := conn.Read(reply)
		if err == nil && n > 0 {
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return errors.New("no answer")
}

// resolve prints the addresses of a name that /etc/hosts holds, and eth0's.
func resolve(args []string) error {
	addresses, err := net.LookupHost(args[0])
	if err != nil {
		return err
	}
	eth0, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	own, err := eth0.Addrs()
	if err != nil {
		return err
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err
	}
	fmt.Println(addresses, own, eth0.Flags, lo.Flags)
	return nil
}

// reverse serves one connection on a port: it says "ready", reads until the client ends its side, and sends
// everything back in the opposite order.
func reverse(args []string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:"+args[0])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	all, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	slices.Reverse(all)
	_, err = conn.Write(all)
	return errors.Join(err, conn.Close())
}
