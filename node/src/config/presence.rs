//! `[presence]`: who may watch, and where presence is published (CAL-11).

use tandem_runtime::config::Section;
use tandem_sip::Uri;
use tandem_sip::host_name::HostName;

use crate::gateway::{OutboundTarget, PublishSettings, WatcherSettings, WhoMayWatch};
use crate::presence::pidf::Profile;
use crate::presence::publication::PublisherSettings;

pub(super) fn read(section: &mut Section) -> (WatcherSettings, Option<PublishSettings>) {
    let defaults = WatcherSettings::default();
    let watchers = WatcherSettings {
        who_may_watch: section.choice(
            "watchers",
            &[("users", WhoMayWatch::Users), ("anyone", WhoMayWatch::Anyone)],
        ),
        watchers_max: section.number_or("watcher_limit", defaults.watchers_max, 1..=1_000_000),
        watchers_per_presentity_max: section.number_or(
            "watchers_per_user",
            defaults.watchers_per_presentity_max,
            1..=100_000,
        ),
        profile: section.choice(
            "profile",
            &[("standard", Profile::Standard), ("cisco", Profile::Cisco)],
        ),
    };
    let publish = section.optional_section("publish");
    (
        watchers,
        publish.and_then(|mut section| read_publish(&mut section)),
    )
}

fn read_publish(section: &mut Section) -> Option<PublishSettings> {
    let defaults = PublisherSettings::default();
    let publisher = PublisherSettings {
        expires_secs: section.number_or("expires_secs", defaults.expires_secs, 60..=86_400),
        in_flight_max: section.number_or("requests_in_flight", defaults.in_flight_max, 1..=1000),
        ..defaults
    };
    let text = section.text("target")?;
    let Some(target) = target_of(&text) else {
        section.problem(
            "target",
            format!("{text:?} is not accepted"),
            "the URI of a server, as \"sip:presence.example.com:5060;transport=tcp\"",
        );
        return None;
    };
    let host_name = section.optional_parsed::<HostName>("host_name", "a host name, as \"rcc.example.com\"");
    Some(PublishSettings {
        target,
        publisher,
        host_name: host_name.map(String::from),
    })
}

fn target_of(text: &str) -> Option<OutboundTarget> {
    let uri = Uri::parse(text).ok()?;
    let sip = uri.as_sip().filter(|sip| !sip.host.is_empty())?;
    let tls = match sip.params.get("transport") {
        Some(name) if name.eq_ignore_ascii_case("tls") => true,
        Some(name) if name.eq_ignore_ascii_case("tcp") => sip.secure,
        None => sip.secure,
        Some(_) => return None,
    };
    Some(OutboundTarget {
        host: sip.host.clone(),
        port: sip.port.unwrap_or(if tls { 5061 } else { 5060 }),
        tls,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_sip_uri_by_tcp_or_tls() {
        let target = |text| target_of(text).map(|target| (target.port, target.tls));
        assert_eq!(target("sip:presence.lab.test"), Some((5060, false)));
        assert_eq!(
            target("sip:presence.lab.test:5070;transport=tcp"),
            Some((5070, false))
        );
        assert_eq!(target("sip:presence.lab.test;transport=tls"), Some((5061, true)));
        assert_eq!(target("sips:presence.lab.test"), Some((5061, true)));
        assert_eq!(target("sip:presence.lab.test;transport=udp"), None);
        assert_eq!(target("presence.lab.test:5060"), None);
        assert_eq!(target("tel:4711"), None);
    }
}
