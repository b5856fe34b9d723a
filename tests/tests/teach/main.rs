//! Exercises of `vmctl lab`: each can be solved as its text says, is found unsolved before, and
//! leaves nothing behind. And what a teacher gets wrong.

mod bad_input;
mod exercises;
mod support;
