//! What a newcomer and CI call: demo, test, lab, kernel, bench.

fn main() {}
