//! The metadata service.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema::LinkLocalAddress;

/// `mmds-config`: the metadata service that guests reach over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MmdsSpec {
    /// Whether a guest needs a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<MmdsVersion>,
    /// The identifiers of the interfaces behind which the service answers; at least one.
    #[schema(min_items = 1)]
    pub network_interfaces: Vec<String>,
    /// The service's address, 169.254.169.254 unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<LinkLocalAddress>)]
    pub ipv4_address: Option<Ipv4Addr>,
    /// Whether answers are `text/plain` whatever a request accepts, as EC2's service does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imds_compat: Option<bool>,
}

/// The protocol of the metadata service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum MmdsVersion {
    /// A plain GET. Any program in the guest that can be made to send one reads the metadata.
    #[default]
    V1,
    /// A token is had by PUT first, and sent with each GET.
    V2,
}
