// SPDX-License-Identifier: MIT
// A client in Rust without any crate: line 0 is driven, line 1, wired to it, is watched.
use std::fs::{File, OpenOptions};
use std::io::{Error, Read};
use std::os::unix::io::{AsRawFd, FromRawFd};

const GET_LINE: u64 = 0xC250_B407; // linux/gpio.h: GPIO_V2_GET_LINE_IOCTL
const SET_VALUES: u64 = 0xC010_B40F; // GPIO_V2_LINE_SET_VALUES_IOCTL
const INPUT: u64 = 1 << 2; // gpio_v2_line_flag
const OUTPUT: u64 = 1 << 3;
const EDGES: u64 = 1 << 4 | 1 << 5;

extern "C" {
    fn ioctl(fd: i32, request: u64, argument: *mut u8) -> i32;
}

fn call(file: &File, request: u64, argument: &mut [u8]) -> Result<(), Error> {
    match unsafe { ioctl(file.as_raw_fd(), request, argument.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

// gpio_v2_line_request: 64 offsets, consumer, config (flags, ...), num_lines, buffer size, padding, fd
fn request(chip: &File, offset: u32, flags: u64) -> Result<File, Error> {
    let mut raw = [0u8; 592];
    raw[..4].copy_from_slice(&offset.to_ne_bytes());
    raw[256..260].copy_from_slice(b"rust");
    raw[288..296].copy_from_slice(&flags.to_ne_bytes());
    raw[560..564].copy_from_slice(&1u32.to_ne_bytes());
    call(chip, GET_LINE, &mut raw)?;
    let fd = i32::from_ne_bytes(raw[588..592].try_into().unwrap());
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn main() -> Result<(), Error> {
    let chip = OpenOptions::new().read(true).write(true).open("/dev/gpiochip0")?;
    let output = request(&chip, 0, OUTPUT)?;
    let mut input = request(&chip, 1, INPUT | EDGES)?;
    for level in [1u64, 0, 1] {
        let mut values = [0u8; 16];
        values[..8].copy_from_slice(&level.to_ne_bytes());
        values[8..].copy_from_slice(&1u64.to_ne_bytes());
        call(&output, SET_VALUES, &mut values)?;
        let mut event = [0u8; 48]; // gpio_v2_line_event: timestamp, id, offset, seqno
        input.read_exact(&mut event)?;
        let id = u32::from_ne_bytes(event[8..12].try_into().unwrap());
        println!("{}", if id == 1 { "rising" } else { "falling" });
    }
    match request(&chip, 0, OUTPUT) {
        Err(error) => println!("{}", error.kind()),
        Ok(_) => println!("held twice"),
    }
    Ok(())
}
