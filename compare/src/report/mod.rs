//! A report, as people read it: in a terminal, in a spreadsheet, in a browser.
//!
//! Instances are hostile, and so are the names of images: each text of a report goes through
//! [`text::visible`] before it's shown, and through the escapes of the format that it's shown in.

pub mod csv;
pub mod distribution;
pub mod html;
pub mod quantity;
pub mod schema;
pub mod terminal;
pub mod text;
