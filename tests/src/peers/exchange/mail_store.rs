//! The mailboxes behind all Client Access Servers: calendars, addresses, rights, and on which server each lives.
//!
//! Pure: every change returns what subscriptions have to hear of it.

use std::collections::{BTreeMap, HashMap};

use super::recurrence::Recurrence;

/// `t:LegacyFreeBusyStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    NoData,
    Free,
    Tentative,
    /// Exchange 2013 and later.
    WorkingElsewhere,
    Busy,
    OutOfOffice,
}

impl Status {
    /// As a request of that schema version may be told.
    #[must_use]
    pub fn as_str(self, knows_working_elsewhere: bool) -> &'static str {
        match self {
            Self::NoData => "NoData",
            Self::Free => "Free",
            Self::Tentative => "Tentative",
            Self::WorkingElsewhere if knows_working_elsewhere => "WorkingElsewhere",
            Self::WorkingElsewhere => "NoData",
            Self::Busy => "Busy",
            Self::OutOfOffice => "OOF",
        }
    }
}

/// What the mailbox's owner said to the invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    Organizer,
    Accept,
    Tentative,
    Decline,
}

impl Response {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Organizer => "Organizer",
            Self::Accept => "Accept",
            Self::Tentative => "Tentative",
            Self::Decline => "Decline",
        }
    }
}

/// A meeting, an appointment, or a series of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appointment {
    /// Unix seconds.
    pub start: i64,
    /// Unix seconds, exclusive.
    pub end: i64,
    pub status: Status,
    pub all_day: bool,
    pub cancelled: bool,
    pub response: Response,
    pub recurrence: Option<Recurrence>,
}

impl Appointment {
    /// A single one.
    #[must_use]
    pub fn new(start: i64, end: i64, status: Status) -> Self {
        Self {
            start,
            end,
            status,
            all_day: false,
            cancelled: false,
            response: Response::Organizer,
            recurrence: None,
        }
    }

    /// Whether it says anything about where its owner is.
    #[must_use]
    pub fn counts(&self) -> bool {
        !self.cancelled && self.response != Response::Decline
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(pub u64);

/// One row of a calendar view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence {
    pub item: ItemId,
    pub start: i64,
    pub end: i64,
    pub status: Status,
    pub all_day: bool,
    pub cancelled: bool,
    pub response: Response,
    pub kind: OccurrenceKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OccurrenceKind {
    Single,
    Occurrence,
    Exception,
}

/// `t:EventType`, without those that a calendar never sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    Created,
    Modified,
    /// To Deleted Items, as by a user.
    Moved,
    Copied,
    /// For good.
    Deleted,
    NewMail,
    FreeBusyChanged,
}

impl EventKind {
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Modified,
        Self::Moved,
        Self::Copied,
        Self::Deleted,
        Self::NewMail,
        Self::FreeBusyChanged,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CreatedEvent",
            Self::Modified => "ModifiedEvent",
            Self::Moved => "MovedEvent",
            Self::Copied => "CopiedEvent",
            Self::Deleted => "DeletedEvent",
            Self::NewMail => "NewMailEvent",
            Self::FreeBusyChanged => "FreeBusyChangedEvent",
        }
    }
}

/// What subscriptions hear of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Primary address.
    pub mailbox: String,
    pub kind: EventKind,
    pub item: ItemId,
    pub change_key: u64,
    /// Grows over the whole store; the watermark of this event.
    pub number: u64,
    /// Unix milliseconds.
    pub at_ms: i64,
}

/// What stands between a caller and a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Present,
    /// Disabled, deleted or moved to another organisation.
    Gone,
    /// The service account may not act for this user.
    ImpersonationDenied,
    /// Being moved right now.
    Moving,
}

/// One user's mailbox, of which only the calendar matters.
#[derive(Debug, Clone)]
pub struct Mailbox {
    pub primary: String,
    pub aliases: Vec<String>,
    /// The mailbox server that it lives on.
    pub server: String,
    pub condition: Condition,
    pub items: BTreeMap<ItemId, Appointment>,
    change_keys: BTreeMap<ItemId, u64>,
    /// PR_LOCAL_COMMIT_TIME_MAX, Unix milliseconds.
    pub commit_time_ms: i64,
    /// PR_DELETED_COUNT_TOTAL.
    pub deleted_count: u32,
}

impl Mailbox {
    /// What a CalendarView shows between `from` and `until`, by start.
    #[must_use]
    pub fn view(&self, from: i64, until: i64) -> Vec<Occurrence> {
        let mut rows: Vec<_> = self
            .items
            .iter()
            .flat_map(|(id, appointment)| occurrences(*id, appointment, until))
            .filter(|row| row.start < until && (row.end > from || row.start == row.end && row.start >= from))
            .collect();
        rows.sort_by_key(|row| (row.start, row.end, row.item));
        rows
    }

    /// What presence must say at that time: the strongest of all that overlap.
    #[must_use]
    pub fn status_at(&self, at: i64) -> Status {
        let rows = self.view(at, at + 1);
        let counting = rows
            .iter()
            .filter(|row| !row.cancelled && row.response != Response::Decline && row.end > at);
        counting.map(|row| row.status).max().unwrap_or(Status::Free)
    }

    /// `None` for an item that is no more.
    #[must_use]
    pub fn change_key(&self, item: ItemId) -> Option<u64> {
        self.change_keys.get(&item).copied()
    }
}

fn occurrences(id: ItemId, appointment: &Appointment, until: i64) -> Vec<Occurrence> {
    let row = |start, end, kind| Occurrence {
        item: id,
        start,
        end,
        // Exchange frees the time of what is cancelled, and keeps the entry.
        status: if appointment.counts() {
            appointment.status
        } else {
            Status::Free
        },
        all_day: appointment.all_day,
        cancelled: appointment.cancelled,
        response: appointment.response,
        kind,
    };
    let Some(recurrence) = &appointment.recurrence else {
        return vec![row(appointment.start, appointment.end, OccurrenceKind::Single)];
    };
    let expanded = recurrence.expand(appointment.start, appointment.end, until);
    let kind = |changed| {
        if changed {
            OccurrenceKind::Exception
        } else {
            OccurrenceKind::Occurrence
        }
    };
    expanded
        .into_iter()
        .map(|(start, end, changed)| row(start, end, kind(changed)))
        .collect()
}

/// All mailboxes. Addresses are compared without regard to case.
#[derive(Debug, Default)]
pub struct MailStore {
    mailboxes: BTreeMap<String, Mailbox>,
    /// Any address → primary address.
    addresses: HashMap<String, String>,
    last_item: u64,
    last_change: u64,
}

impl MailStore {
    pub fn add(&mut self, primary: &str, aliases: &[&str], server: &str) {
        let primary = primary.to_ascii_lowercase();
        let aliases: Vec<_> = aliases.iter().map(|alias| alias.to_ascii_lowercase()).collect();
        for address in aliases.iter().chain([&primary]) {
            self.addresses.insert(address.clone(), primary.clone());
        }
        let mailbox = Mailbox {
            primary: primary.clone(),
            aliases,
            server: server.to_owned(),
            condition: Condition::Present,
            items: BTreeMap::new(),
            change_keys: BTreeMap::new(),
            commit_time_ms: 0,
            deleted_count: 0,
        };
        self.mailboxes.insert(primary, mailbox);
    }

    /// By any of its addresses.
    #[must_use]
    pub fn get(&self, address: &str) -> Option<&Mailbox> {
        let primary = self.addresses.get(&address.to_ascii_lowercase())?;
        self.mailboxes.get(primary)
    }

    #[must_use]
    pub fn mailboxes(&self) -> &BTreeMap<String, Mailbox> {
        &self.mailboxes
    }

    pub fn set_condition(&mut self, address: &str, condition: Condition) {
        if let Some(mailbox) = self.get_mut(address) {
            mailbox.condition = condition;
        }
    }

    /// The mailbox lives elsewhere from now on.
    pub fn move_mailbox(&mut self, address: &str, server: &str) {
        if let Some(mailbox) = self.get_mut(address) {
            server.clone_into(&mut mailbox.server);
        }
    }

    /// Puts an entry into a calendar. Nothing happens to a mailbox that does not exist.
    pub fn create(
        &mut self,
        address: &str,
        appointment: Appointment,
        at_ms: i64,
    ) -> Option<(ItemId, Change)> {
        self.last_item += 1;
        let id = ItemId(self.last_item);
        let mailbox = self.get_mut(address)?;
        mailbox.items.insert(id, appointment);
        let change = self.changed(address, EventKind::Created, id, at_ms)?;
        Some((id, change))
    }

    /// Changes an entry; `None` when there is no such entry.
    pub fn modify(
        &mut self,
        address: &str,
        item: ItemId,
        at_ms: i64,
        edit: impl FnOnce(&mut Appointment),
    ) -> Option<Change> {
        edit(self.get_mut(address)?.items.get_mut(&item)?);
        self.changed(address, EventKind::Modified, item, at_ms)
    }

    /// `EventKind::Moved` as a user deletes, `EventKind::Deleted` for good.
    pub fn delete(&mut self, address: &str, item: ItemId, kind: EventKind, at_ms: i64) -> Option<Change> {
        let mailbox = self.get_mut(address)?;
        mailbox.items.remove(&item)?;
        mailbox.deleted_count += 1;
        let change = self.changed(address, kind, item, at_ms);
        if let Some(mailbox) = self.get_mut(address) {
            mailbox.change_keys.remove(&item);
        }
        change
    }

    /// The number of the last change: the watermark of now.
    #[must_use]
    pub fn last_change(&self) -> u64 {
        self.last_change
    }

    fn changed(&mut self, address: &str, kind: EventKind, item: ItemId, at_ms: i64) -> Option<Change> {
        self.last_change += 1;
        let number = self.last_change;
        let mailbox = self.get_mut(address)?;
        mailbox.commit_time_ms = at_ms.max(mailbox.commit_time_ms + 1);
        mailbox.change_keys.insert(item, number);
        Some(Change {
            mailbox: mailbox.primary.clone(),
            kind,
            item,
            change_key: number,
            number,
            at_ms,
        })
    }

    fn get_mut(&mut self, address: &str) -> Option<&mut Mailbox> {
        let primary = self.addresses.get(&address.to_ascii_lowercase())?;
        self.mailboxes.get_mut(primary)
    }
}

#[cfg(test)]
mod tests {
    use super::super::recurrence::Zone;
    use super::*;

    const ANA: &str = "ana@lab.test";

    fn store() -> MailStore {
        let mut store = MailStore::default();
        store.add("Ana@lab.test", &["a.smith@lab.test"], "mbx1");
        store
    }

    fn put(store: &mut MailStore, start: i64, end: i64, status: Status) -> ItemId {
        store
            .create(ANA, Appointment::new(start, end, status), 1)
            .unwrap()
            .0
    }

    #[test]
    fn a_mailbox_is_found_by_every_address_whatever_its_case() {
        let store = store();
        assert_eq!(store.get("A.SMITH@lab.test").unwrap().primary, ANA);
        assert!(store.get("bob@lab.test").is_none());
    }

    #[test]
    fn a_view_has_what_overlaps_it_and_not_what_only_touches_it() {
        let mut store = store();
        put(&mut store, 0, 100, Status::Busy);
        put(&mut store, 50, 150, Status::Busy);
        put(&mut store, 200, 300, Status::Busy);
        let rows = store.get(ANA).unwrap().view(100, 200);
        assert_eq!(rows.iter().map(|row| row.start).collect::<Vec<_>>(), [50]);
    }

    #[test]
    fn the_strongest_of_what_overlaps_is_the_status_and_what_is_cancelled_or_declined_does_not_count() {
        let mut store = store();
        put(&mut store, 0, 100, Status::Tentative);
        let busy = put(&mut store, 10, 50, Status::Busy);
        let away = put(&mut store, 20, 30, Status::OutOfOffice);
        let at = |store: &MailStore, at| store.get(ANA).unwrap().status_at(at);
        let seen = [5, 15, 25, 30, 50, 100].map(|time| at(&store, time));
        let wanted = [
            Status::Tentative,
            Status::Busy,
            Status::OutOfOffice,
            Status::Busy,
            Status::Tentative,
            Status::Free,
        ];
        assert_eq!(seen, wanted);
        store.modify(ANA, away, 2, |item| item.cancelled = true).unwrap();
        store
            .modify(ANA, busy, 3, |item| item.response = Response::Decline)
            .unwrap();
        assert_eq!(at(&store, 25), Status::Tentative);
    }

    #[test]
    fn every_change_raises_the_stamp_and_is_told() {
        let mut store = store();
        let (item, created) = store
            .create(ANA, Appointment::new(0, 1, Status::Busy), 1000)
            .unwrap();
        let modified = store.modify(ANA, item, 1000, |item| item.end = 2).unwrap();
        let deleted = store.delete(ANA, item, EventKind::Moved, 1000).unwrap();
        let kinds = [&created, &modified, &deleted].map(|change| change.kind);
        assert_eq!(kinds, [EventKind::Created, EventKind::Modified, EventKind::Moved]);
        assert!(created.number < modified.number && modified.number < deleted.number);
        let mailbox = store.get(ANA).unwrap();
        assert_eq!((mailbox.commit_time_ms, mailbox.deleted_count), (1002, 1));
        assert!(store.delete(ANA, item, EventKind::Deleted, 1000).is_none());
    }

    #[test]
    fn a_series_shows_its_occurrences_and_no_master() {
        let mut store = store();
        let mut series = Appointment::new(0, 3600, Status::Busy);
        let mut recurrence = Recurrence::every_days(1, 5, Zone::Utc);
        recurrence.removed.insert(86_400);
        recurrence
            .changed
            .insert(2 * 86_400, (2 * 86_400 + 60, 2 * 86_400 + 120));
        series.recurrence = Some(recurrence);
        store.create(ANA, series, 1).unwrap();
        let rows = store.get(ANA).unwrap().view(0, 100 * 86_400);
        let starts: Vec<_> = rows.iter().map(|row| (row.start, row.kind)).collect();
        let wanted = [
            (0, OccurrenceKind::Occurrence),
            (2 * 86_400 + 60, OccurrenceKind::Exception),
            (3 * 86_400, OccurrenceKind::Occurrence),
            (4 * 86_400, OccurrenceKind::Occurrence),
        ];
        assert_eq!(starts, wanted);
    }
}
