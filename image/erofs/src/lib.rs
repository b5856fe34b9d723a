//! EROFS file systems made from container images' layers.
//!
//! ```text
//! layer.tar ──write_layer──▶ blob        one file system for each layer, mountable as a lower
//!                             │          layer of overlayfs
//!            ┌────────────────┤
//!            ▼                ▼
//! blobs ──merge_layers──▶ metadata ‖ blob ‖ blob …   one disk for each image
//! ```
//!
//! A layer's data are written once, while it's pulled; an image adds its merged metadata only, whose
//! block addresses point into the blobs behind it. [`Reader`] reads either.
//!
//! Nothing is compressed: a virtual machine's page cache would hold a second copy of what the
//! host's holds compressed, and block addresses couldn't be shared between images.
//!
//! Archives and file systems are untrusted: see [`Limits`].

mod layer;
mod limits;
mod merge;
mod metadata;
mod ondisk;
mod output;
mod reader;
mod source;
mod tar;
#[cfg(test)]
mod testing;
mod tree;

pub use layer::{EntryError, LayerError, LayerSummary, write_layer};
pub use limits::{LimitError, Limits};
pub use merge::{BlobPlace, MergeError, MergedImage, merge_layers};
pub use reader::{DirEntry, FileReader, FileType, Inode, ReadError, Reader, XattrPair};
pub use source::{ConcatSource, ReadAt};
pub use tar::{Archive, ArchiveError, Entry, Kind, TarError};
