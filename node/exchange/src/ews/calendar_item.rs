//! The parts of an appointment that presence needs.

/// `t:LegacyFreeBusyStatus` and `t:BusyType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FreeBusyStatus {
    Free,
    Tentative,
    Busy,
    OutOfOffice,
    /// Exchange 2013 and later.
    WorkingElsewhere,
    /// The calendar has no opinion.
    NoData,
}

/// One occurrence: the server expands recurrences, and so takes care of daylight saving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CalendarItem {
    /// Unix seconds.
    pub start: i64,
    /// Unix seconds, exclusive.
    pub end: i64,
    pub status: FreeBusyStatus,
    pub all_day: bool,
    pub cancelled: bool,
    /// `MyResponseType` is `Decline`.
    pub declined: bool,
}
