//! The metadata service, asked by programs in the guest over its network.

use anyhow::{Result, ensure};
use api::config::{MmdsSpec, MmdsVersion, NetSpec, VmSpec};
use integration_tests::api_vm::{ApiVm, lean};
use integration_tests::network::Namespace;
use serde_json::json;

use crate::support::{ApiGuest, Place};

const URL: &str = "http://169.254.169.254";

/// Boots `spec` with a network behind which the service answers.
fn boot(
    place: &Place,
    namespace: &Namespace,
    version: MmdsVersion,
    mut spec: VmSpec,
) -> Result<ApiGuest> {
    spec.network_interfaces.push(NetSpec {
        iface_id: "eth0".to_owned(),
        host_dev_name: Namespace::TAP.to_owned(),
        ..NetSpec::default()
    });
    spec.mmds_config = Some(MmdsSpec {
        version: Some(version),
        network_interfaces: vec!["eth0".to_owned()],
        ipv4_address: None,
        imds_compat: None,
    });
    let mut vmm = ApiVm::spawn_in(namespace, place.name(), place.path())?;
    vmm.api.put_mmds(json!({ "latest": { "name": "first", "tags": { "a": "1" } } }))?;
    let mut guest = vmm.boot(spec)?;
    guest.run(&format!(
        "ip link set eth0 up && ip addr add 169.254.0.2/16 dev eth0 && \
         ip addr add {}/24 dev eth0",
        Namespace::GUEST
    ))?;
    Ok(guest)
}

#[test]
fn first_version_answers_a_plain_get_and_the_host_stays_in_reach() -> Result<()> {
    let (place, namespace) = (Place::new("mmds1")?, Namespace::new("mmds1", &[])?);
    let mut guest = boot(&place, &namespace, MmdsVersion::V1, lean(1, 128))?;
    let get = |path: &str| format!("wget -q -O - {URL}{path}");
    ensure!(guest.run(&get("/latest/name"))? == "first");
    let listing = guest.run(&get("/latest"))?;
    ensure!(listing == "name\ntags/", "{listing:?}");
    let tree = guest
        .run(&format!("wget -q -O - --header 'Accept: application/json' {URL}/latest/tags"))?;
    ensure!(serde_json::from_str::<serde_json::Value>(&tree)? == json!({ "a": "1" }), "{tree}");
    ensure!(guest.try_run(&get("/latest/nothing"))?.status != 0);
    guest.vm.api.patch_mmds(json!({ "latest": { "name": "second" } }))?;
    ensure!(guest.run(&get("/latest/name"))? == "second");
    guest.run(&format!("ping -c 1 {}", Namespace::HOST))?;
    guest.power_off()
}

/// A command that sends a request and prints what comes back, head and body.
fn request(method: &str, path: &str, header: &str) -> String {
    format!(
        "printf '{method} {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n%s\\r\\n\\r\\n' \
         \"{header}\" | timeout 100 nc 169.254.169.254 80 | tr -d '\\r'"
    )
}

#[test]
fn second_version_answers_who_has_a_token() -> Result<()> {
    let (place, namespace) = (Place::new("mmds2")?, Namespace::new("mmds2", &[])?);
    let mut guest = boot(&place, &namespace, MmdsVersion::V2, lean(1, 128))?;
    for header in ["Accept: */*", "X-metadata-token: x"] {
        let refused = guest.run(&request("GET", "/latest/name", header))?;
        ensure!(refused.starts_with("HTTP/1.1 401 "), "{header}: {refused}");
    }
    for prefix in ["X-metadata-token", "X-aws-ec2-metadata-token"] {
        let ttl = format!("{prefix}-ttl-seconds: 600");
        let put = request("PUT", "/latest/api/token", &ttl);
        guest.run(&format!("{put} | tail -n 1 >/tmp/token"))?;
        let header = format!("{prefix}: $(cat /tmp/token)");
        let answer = guest.run(&request("GET", "/latest/name", &header))?;
        ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\nfirst"), "{answer}");
    }
    guest.power_off()
}
