//! Cookies that keep the requests of one group at one mailbox server (docs/spec/ews.md §1.10): one jar per CAS and group.

use std::collections::BTreeMap;

use tandem_cluster::CasId;

/// Requests with the same key at the same CAS share cookies: they belong to one mailbox server
/// (docs/spec/ews.md §1.10).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AffinityKey {
    /// Requests need not be kept together.
    None,
    /// One user's subscription.
    User(String),
    /// A group that shares a stream.
    Group(u32),
}

/// All jars of a node. When there is no room, the least recently used one is dropped.
#[derive(Debug)]
pub struct CookieJars {
    jars_max: usize,
    jars: BTreeMap<Owner, Jar>,
    /// When each was last used, oldest first.
    uses: BTreeMap<u64, Owner>,
    next_use: u64,
}

type Owner = (CasId, AffinityKey);

#[derive(Debug, Default)]
struct Jar {
    used: u64,
    cookies: BTreeMap<String, String>,
}

impl CookieJars {
    #[must_use]
    pub fn new(jars_max: usize) -> Self {
        Self {
            jars_max,
            jars: BTreeMap::new(),
            uses: BTreeMap::new(),
            // Zero means never used: a new jar has it.
            next_use: 1,
        }
    }

    /// The value of `Cookie`; `None` while there is none.
    pub fn header(&mut self, cas: &CasId, affinity: &AffinityKey) -> Option<String> {
        let owner = (cas.clone(), affinity.clone());
        if !self.jars.contains_key(&owner) {
            return None;
        }
        let cookies = &self.use_jar(owner).cookies;
        let pairs: Vec<_> = cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        Some(pairs.join("; "))
    }

    /// Keeps the cookies that an answer set, except for [`AffinityKey::None`], and those that no header can carry.
    pub fn keep<'a>(
        &mut self,
        cas: &CasId,
        affinity: &AffinityKey,
        set_cookies: impl IntoIterator<Item = &'a str>,
    ) {
        if *affinity == AffinityKey::None {
            return;
        }
        let owner = (cas.clone(), affinity.clone());
        for set_cookie in set_cookies.into_iter().filter_map(SetCookie::parse) {
            let jar = self.use_jar(owner.clone());
            if set_cookie.is_deletion {
                jar.cookies.remove(set_cookie.name);
            } else if jar.cookies.len() < COOKIES_MAX || jar.cookies.contains_key(set_cookie.name) {
                jar.cookies
                    .insert(set_cookie.name.to_owned(), set_cookie.value.to_owned());
            }
        }
        if self.jars.get(&owner).is_some_and(|jar| jar.cookies.is_empty()) {
            self.forget(cas, affinity);
        }
        self.make_room();
    }

    pub fn forget(&mut self, cas: &CasId, affinity: &AffinityKey) {
        if let Some(jar) = self.jars.remove(&(cas.clone(), affinity.clone())) {
            self.uses.remove(&jar.used);
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.jars.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jars.is_empty()
    }

    fn use_jar(&mut self, owner: Owner) -> &mut Jar {
        let used = self.next_use;
        self.next_use += 1;
        let jar = self.jars.entry(owner.clone()).or_default();
        self.uses.remove(&jar.used);
        self.uses.insert(used, owner);
        jar.used = used;
        jar
    }

    fn make_room(&mut self) {
        while self.jars.len() > self.jars_max {
            let Some((_, owner)) = self.uses.pop_first() else {
                return;
            };
            self.jars.remove(&owner);
        }
    }
}

/// The relevant part of `Set-Cookie`: path and domain are those of the CAS.
struct SetCookie<'a> {
    name: &'a str,
    value: &'a str,
    is_deletion: bool,
}

impl<'a> SetCookie<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';');
        let (name, value) = parts.next()?.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let fits = name.len() + value.len() <= COOKIE_BYTES_MAX;
        let visible = |text: &str| text.bytes().all(|byte| (0x21..0x7f).contains(&byte));
        if name.is_empty() || !fits || !visible(name) || !visible(value) {
            return None;
        }
        Some(Self {
            name,
            value,
            is_deletion: value.is_empty() || parts.any(is_over),
        })
    }
}

/// Whether `Max-Age` is zero or less. `Expires` is ignored: a cookie that does not help is dropped anyway.
fn is_over(attribute: &str) -> bool {
    let Some((name, value)) = attribute.split_once('=') else {
        return false;
    };
    let seconds = value.trim().parse::<i64>();
    name.trim().eq_ignore_ascii_case("max-age") && seconds.is_ok_and(|seconds| seconds <= 0)
}

const COOKIES_MAX: usize = 16;
const COOKIE_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_given_back_what_its_cas_set() {
        let mut jars = CookieJars::new(10);
        let group = AffinityKey::Group(1);
        assert_eq!(jars.header(&cas("a"), &group), None);
        jars.keep(
            &cas("a"),
            &group,
            [
                "X-BackEndOverrideCookie=mbx1~194; path=/; secure",
                "exchangecookie=7f; HttpOnly",
            ],
        );
        let header = jars.header(&cas("a"), &group).unwrap();
        assert_eq!(header, "X-BackEndOverrideCookie=mbx1~194; exchangecookie=7f");
        assert_eq!(jars.header(&cas("b"), &group), None);
        assert_eq!(jars.header(&cas("a"), &AffinityKey::Group(2)), None);
    }

    #[test]
    fn a_cookie_is_replaced_and_taken_back() {
        let mut jars = CookieJars::new(10);
        let user = AffinityKey::User("ana".to_owned());
        jars.keep(&cas("a"), &user, ["c=1"]);
        jars.keep(&cas("a"), &user, ["c=2; Max-Age=60"]);
        assert_eq!(jars.header(&cas("a"), &user), Some("c=2".to_owned()));
        jars.keep(&cas("a"), &user, ["c=2; max-age=0"]);
        assert!(jars.is_empty());
    }

    #[test]
    fn nothing_is_kept_for_nobody_nor_what_no_header_can_carry() {
        let mut jars = CookieJars::new(10);
        jars.keep(&cas("a"), &AffinityKey::None, ["c=1"]);
        let long = format!("c={}", "x".repeat(COOKIE_BYTES_MAX));
        let group = AffinityKey::Group(1);
        jars.keep(
            &cas("a"),
            &group,
            ["", "=1", "no value", "c=a\u{1}b", "c=ä", &long],
        );
        assert!(jars.is_empty());
    }

    #[test]
    fn tables_are_bounded_and_the_longest_unused_goes_first() {
        let mut jars = CookieJars::new(2);
        for group in [1, 2] {
            jars.keep(&cas("a"), &AffinityKey::Group(group), ["c=1"]);
        }
        let _ = jars.header(&cas("a"), &AffinityKey::Group(1));
        jars.keep(&cas("a"), &AffinityKey::Group(3), ["c=1"]);
        assert_eq!((jars.len(), jars.uses.len()), (2, 2));
        assert_eq!(jars.header(&cas("a"), &AffinityKey::Group(2)), None);
        assert!(jars.header(&cas("a"), &AffinityKey::Group(1)).is_some());

        let many: Vec<_> = (0..COOKIES_MAX + 5)
            .map(|number| format!("c{number}=1"))
            .collect();
        jars.keep(&cas("b"), &AffinityKey::Group(1), many.iter().map(String::as_str));
        let header = jars.header(&cas("b"), &AffinityKey::Group(1)).unwrap();
        assert_eq!(header.split("; ").count(), COOKIES_MAX);
    }

    #[test]
    fn what_is_forgotten_is_gone() {
        let mut jars = CookieJars::new(2);
        jars.keep(&cas("a"), &AffinityKey::Group(1), ["c=1"]);
        jars.forget(&cas("a"), &AffinityKey::Group(1));
        jars.forget(&cas("a"), &AffinityKey::Group(1));
        assert!(jars.is_empty() && jars.uses.is_empty());
    }

    fn cas(name: &str) -> CasId {
        CasId(name.to_owned())
    }
}
