//! What a signing request asks for, and whether it is signed.

use rcgen::{CertificateSigningRequestParams, DnType, DnValue, SanType};
use tandem_cluster::NodeId;
use thiserror::Error;

use super::holder::{Holder, OutsideCluster, Role, member};
use super::name::{ClusterName, HostName, PersonName};

/// For whom the request is, by the names in it. `role` is what the signer grants: a request for a role is signed only if
/// they say the same. Nothing else that the request asks for counts.
///
/// # Errors
/// When its names are not those of a member of `cluster`, of a service or of an administrator.
pub fn holder_of(
    request: &CertificateSigningRequestParams,
    cluster: &ClusterName,
    role: Option<Role>,
) -> Result<Holder, RequestRefused> {
    let mut hosts = Vec::new();
    let mut uris = Vec::new();
    for name in &request.params.subject_alt_names {
        match name {
            SanType::DnsName(name) => hosts.push(name.as_str().parse::<HostName>()),
            SanType::IpAddress(address) => hosts.push(Ok(HostName::Address(*address))),
            SanType::URI(uri) => uris.push(uri.as_str()),
            // Names of other kinds count nowhere.
            SanType::Rfc822Name(_) | SanType::OtherName(_) | _ => return Err(RequestRefused::Names),
        }
    }
    let hosts: Vec<HostName> = hosts
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|_| RequestRefused::Names)?;
    match (hosts.is_empty(), uris.as_slice()) {
        (false, []) if role.is_some() => Err(RequestRefused::NoPerson),
        (false, []) => host(hosts, cluster),
        (true, [uri]) => administrator(request, uri, role),
        (true | false, _) => Err(RequestRefused::Names),
    }
}

/// A member if one of the names is a member's; its other names have to lie beside it.
fn host(mut hosts: Vec<HostName>, cluster: &ClusterName) -> Result<Holder, RequestRefused> {
    if hosts.len() > NAMES_MAX {
        return Err(RequestRefused::Names);
    }
    let found = hosts.iter().position(|name| member_id(name, cluster).is_some());
    let Some(place) = found else {
        return Ok(Holder::Vip { names: hosts });
    };
    let own = hosts.remove(place);
    let id = member_id(&own, cluster).ok_or(RequestRefused::Names)?;
    if hosts.iter().any(|name| member_id(name, cluster).is_some()) {
        return Err(RequestRefused::TwoMembers);
    }
    Ok(member(id, cluster.clone(), hosts)?)
}

/// Member 1 of `office` is `n1.office.tandem`.
#[must_use]
pub fn member_id(name: &HostName, cluster: &ClusterName) -> Option<NodeId> {
    let HostName::Dns(name) = name else {
        return None;
    };
    let label = name.strip_suffix(&cluster.domain())?.strip_suffix('.')?;
    let digits = label.strip_prefix('n')?;
    let id: u64 = digits.parse().ok().filter(|id| MEMBER_IDS.contains(id))?;
    // "n01" and "n+1" are no member's.
    (id.to_string() == digits).then_some(NodeId(id))
}

fn administrator(
    request: &CertificateSigningRequestParams,
    uri: &str,
    granted: Option<Role>,
) -> Result<Holder, RequestRefused> {
    let asked = Role::ALL.into_iter().find(|role| role.uri() == uri);
    let role = asked.ok_or(RequestRefused::Names)?;
    if granted != Some(role) {
        return Err(RequestRefused::RoleNotGranted { uri: role.uri() });
    }
    let name = common_name(request).ok_or(RequestRefused::NameMissing)?;
    Ok(Holder::Administrator { name, role })
}

fn common_name(request: &CertificateSigningRequestParams) -> Option<PersonName> {
    match request.params.distinguished_name.get(&DnType::CommonName)? {
        DnValue::Utf8String(name) => name.parse().ok(),
        DnValue::PrintableString(name) => name.as_str().parse().ok(),
        // Others were not written by `tandem pki csr`.
        DnValue::BmpString(_)
        | DnValue::Ia5String(_)
        | DnValue::TeletexString(_)
        | DnValue::UniversalString(_)
        | _ => None,
    }
}

/// Why a request is not signed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestRefused {
    #[error(
        "its alternative names are neither hosts (up to {NAMES_MAX}) nor one role: create it again with `tandem pki csr`"
    )]
    Names,
    #[error("it names two members, and a certificate is for one: create a request for each")]
    TwoMembers,
    #[error(
        "its common name is not the name of an administrator: create it again with `tandem pki csr --admin NAME`"
    )]
    NameMissing,
    #[error("it asks for {uri}: if that is to be granted, say the same role with --role")]
    RoleNotGranted { uri: &'static str },
    #[error("it is for a host, and hosts have no role: leave --role out")]
    NoPerson,
    #[error(transparent)]
    OutsideCluster(#[from] OutsideCluster),
}

/// As in `[node] id`.
pub const MEMBER_IDS: std::ops::RangeInclusive<u64> = 1..=999_999;
pub const NAMES_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::KeyPair;

    use super::*;

    fn office() -> ClusterName {
        "office".parse().unwrap()
    }

    fn hosts(names: &[&str]) -> Vec<HostName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn request(holder: &Holder) -> CertificateSigningRequestParams {
        let parameters = holder.request_parameters().unwrap();
        let request = parameters
            .serialize_request(&KeyPair::generate().unwrap())
            .unwrap();
        CertificateSigningRequestParams::from_der(request.der()).unwrap()
    }

    fn asked_for(names: &[&str]) -> Result<Holder, RequestRefused> {
        let names = hosts(names);
        holder_of(&request(&Holder::Vip { names }), &office(), None)
    }

    #[test]
    fn a_request_is_for_whom_its_names_say() {
        let member = member(NodeId(2), office(), hosts(&["192.0.2.22"])).unwrap();
        let vip = Holder::Vip {
            names: hosts(&["rcc.example.com", "192.0.2.10"]),
        };
        for holder in [member, vip] {
            assert_eq!(holder_of(&request(&holder), &office(), None), Ok(holder));
        }
        // A member of another cluster is a host like any other, and the service authority signs it.
        let other = asked_for(&["n1.branch.tandem"]).unwrap();
        assert!(matches!(other, Holder::Vip { .. }), "{other:?}");
    }

    #[test]
    fn a_member_brings_no_other_names() {
        assert_eq!(
            asked_for(&["n1.office.tandem", "n2.office.tandem"]),
            Err(RequestRefused::TwoMembers)
        );
        let outside = asked_for(&["n1.office.tandem", "rcc.example.com"]).unwrap_err();
        assert!(matches!(outside, RequestRefused::OutsideCluster(_)), "{outside}");
    }

    #[test]
    fn a_role_is_granted_by_who_signs() {
        let holder = Holder::Administrator {
            name: "ana".parse().unwrap(),
            role: Role::Operate,
        };
        let request = request(&holder);
        let signed = |role| holder_of(&request, &office(), role);
        assert_eq!(signed(Some(Role::Operate)), Ok(holder));
        let refused = RequestRefused::RoleNotGranted {
            uri: "tandem:role:operate",
        };
        assert_eq!(signed(None), Err(refused.clone()));
        assert_eq!(signed(Some(Role::Administer)), Err(refused));
    }

    proptest! {
        #[test]
        fn only_the_names_of_members_are_numbers_of_members(text in "n?[+0-9a-z]{0,8}(\\.office\\.tandem)?") {
            if let Ok(name) = text.parse::<HostName>() {
                let digits = text.strip_suffix(".office.tandem").and_then(|label| label.strip_prefix('n'));
                let number = digits.and_then(|digits| digits.parse::<u64>().ok());
                // Written back as it was read, it is the same text: no sign and no zeros in front.
                let wanted = number.filter(|id| MEMBER_IDS.contains(id) && digits == Some(&id.to_string()));
                prop_assert_eq!(member_id(&name, &office()), wanted.map(NodeId));
            }
        }
    }
}
