//! The command line as users meet it: what it refuses and with which words, what it prints, what it
//! does to a terminal, and that it leaves nothing behind.

mod bad_input;
mod in_use;
mod output;
mod run;
mod terminal;
mod unprivileged;
