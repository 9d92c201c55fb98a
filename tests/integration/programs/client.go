// SPDX-License-Identifier: MIT
// A static client in Go, without C and any module: line 0 is driven, line 1, wired to it, is watched by
// the run-time's poller.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"
)

const (
	getLine   = 0xC250B407 // linux/gpio.h: GPIO_V2_GET_LINE_IOCTL
	setValues = 0xC010B40F // GPIO_V2_LINE_SET_VALUES_IOCTL
	input     = 1 << 2     // gpio_v2_line_flag
	output    = 1 << 3
	edges     = 1<<4 | 1<<5
)

func call(fd uintptr, request uintptr, argument []byte) error {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(&argument[0])))
	if errno != 0 {
		return errno
	}
	return nil
}

// gpio_v2_line_request: 64 offsets, consumer, config (flags, ...), num_lines, buffer size, padding, fd
func request(chip *os.File, offset uint32, flags uint64) (int, error) {
	raw := make([]byte, 592)
	binary.LittleEndian.PutUint32(raw, offset)
	copy(raw[256:], "go")
	binary.LittleEndian.PutUint64(raw[288:], flags)
	binary.LittleEndian.PutUint32(raw[560:], 1)
	if err := call(chip.Fd(), getLine, raw); err != nil {
		return -1, err
	}
	return int(int32(binary.LittleEndian.Uint32(raw[588:]))), nil
}

func must(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func main() {
	chip, err := os.OpenFile("/dev/gpiochip0", os.O_RDWR, 0)
	must(err)
	driven, err := request(chip, 0, output)
	must(err)
	fd, err := request(chip, 1, input|edges)
	must(err)
	must(syscall.SetNonblock(fd, true))
	watched := os.NewFile(uintptr(fd), "line 1")
	seen := make(chan string)
	go func() {
		event := make([]byte, 48) // gpio_v2_line_event: timestamp, id, offset, seqno
		for {
			if _, err := watched.Read(event); err != nil {
				seen <- err.Error()
				return
			}
			seen <- []string{"", "rising", "falling"}[binary.LittleEndian.Uint32(event[8:])]
		}
	}()
	for _, level := range []uint64{1, 0, 1} {
		values := make([]byte, 16)
		binary.LittleEndian.PutUint64(values, level)
		binary.LittleEndian.PutUint64(values[8:], 1)
		must(call(uintptr(driven), setValues, values))
		select {
		case word := <-seen:
			fmt.Println(word)
		case <-time.After(5 * time.Second):
			fmt.Println("no event")
		}
	}
	_, err = request(chip, 0, output)
	fmt.Println(err)
}
