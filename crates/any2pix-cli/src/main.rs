//! The `any2pix` binary: flags, environment, printing, exit codes.

fn main() {}
