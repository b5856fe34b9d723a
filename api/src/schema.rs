//! Strings of the API that have a form of their own, as the OpenAPI document describes them.
//!
//! The values themselves are `String`s and `PathBuf`s: configurations and requests check them, and
//! say what's wrong in their own words.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

/// Declares a type that's only a named schema of a string.
macro_rules! string_schema {
    ($(#[doc = $doc:literal] $name:ident: $min:expr, $max:expr, $pattern:expr;)*) => {$(
        #[doc = $doc]
        pub(crate) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                string($doc, $min, $max, $pattern)
            }
        }

        impl ToSchema for $name {}
    )*};
}

string_schema! {
    #[doc = "A path on the host, absolute or from the VMM's working directory."]
    HostPath: 1, 4095, "^[^\\u0000]+$";
    #[doc = "A path of a Unix socket on the host, absolute or from the VMM's working directory."]
    SocketPath: 1, 107, "^[^\\u0000]+$";
    #[doc = "The name of a device on the host's side."]
    ResourceId: 1, 64, "^[A-Za-z0-9_-]+$";
    #[doc = "The name of a network interface of the host."]
    InterfaceName: 1, 15, "^[A-Za-z0-9_.-]*[A-Za-z0-9_-]$";
    #[doc = "A unicast Ethernet address other than zero."]
    EthernetAddress: 17, 17, "^[0-9A-Fa-f][2468ACEace](:[0-9A-Fa-f]{2}){5}$";
    #[doc = "An IPv4 address from 169.254.1.0 to 169.254.254.255."]
    LinkLocalAddress: 11, 15,
        "^169\\.254\\.([1-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-4])\\.\
         ([0-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5])$";
    #[doc = "A 32-bit number: decimal, hexadecimal after 0x, or binary after 0b."]
    Number32: 1, 34, "^(0b[01]{1,32}|0x[0-9A-Fa-f]{1,8}|[0-9]{1,9})$";
    #[doc = "What becomes of a 32-bit register's bits, the highest first: 0 clears, 1 sets, x leaves. Bits that aren't written are left."]
    Bitmap32: 1, 66, "^(0b)?[01x](_?[01x]){0,31}$";
    #[doc = "What becomes of a 64-bit register's bits, the highest first: 0 clears, 1 sets, x leaves. Bits that aren't written are left."]
    Bitmap64: 1, 130, "^(0b)?[01x](_?[01x]){0,63}$";
    #[doc = "The number of a KVM capability, after ! if the VM does without it."]
    CapabilityNumber: 1, 10, "^!?[0-9]{1,9}$";
}

/// The metadata service's contents: a JSON object of any keys.
pub(crate) struct MmdsContents;

impl PartialSchema for MmdsContents {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(SchemaType::Type(Type::Object))
            .description(Some("The metadata: a JSON object of any keys."))
            .additional_properties(Some(AdditionalProperties::FreeForm(true)))
            .into()
    }
}

impl ToSchema for MmdsContents {}

fn string(doc: &str, min: usize, max: usize, pattern: &str) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .description(Some(doc))
        .min_length(Some(min))
        .max_length(Some(max))
        .pattern(Some(pattern))
        .into()
}

/// The schema of a flag that may only be off.
pub(crate) fn only_false() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Boolean, Type::Null]))
        .description(Some("Whether two vCPUs share a core; only `false`."))
        .enum_values(Some([Some(false), None]))
        .into()
}
