//! Classifies error codes (docs/spec/ews.md §1.8). [`FailureClass`] says what each class requires.

use std::time::Duration;

use super::failure::{Failure, FailureClass, ResponseCode};

impl Failure {
    /// A code that is not in the table counts as a transient failure of the server.
    #[must_use]
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Response { code, inner, .. } => class_of_response(code, inner.as_ref()),
            Self::Http { status, .. } => class_of_status(*status),
            Self::Unauthorized(_) => FailureClass::Credential,
            Self::TooLarge => FailureClass::TooMuch,
            Self::Malformed(_) | Self::Unreachable(_) | Self::Tls(_) | Self::TimedOut => {
                FailureClass::Transient
            }
        }
    }

    /// How long the server asked us to wait, at most [`super::BACK_OFF_MAX`]; it may be zero.
    #[must_use]
    pub fn back_off(&self) -> Option<Duration> {
        match self {
            Self::Response { back_off, .. } => *back_off,
            Self::Http { retry_after, .. } => *retry_after,
            Self::Unauthorized(_)
            | Self::Malformed(_)
            | Self::TooLarge
            | Self::Unreachable(_)
            | Self::Tls(_)
            | Self::TimedOut => None,
        }
    }
}

impl FailureClass {
    /// For metrics and logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::OtherOwner => "other_owner",
            Self::Moved => "moved",
            Self::Gone => "gone",
            Self::Identity => "identity",
            Self::Throttled => "throttled",
            Self::Transient => "transient",
            Self::Credential => "credential",
            Self::RightsOfServer => "rights_of_server",
            Self::RightsOfUser => "rights_of_user",
            Self::Version => "version",
            Self::TooMuch => "too_much",
            Self::Request => "request",
        }
    }
}

/// An error that says only "internal" has the class of the error inside it.
fn class_of_response(code: &ResponseCode, inner: Option<&ResponseCode>) -> FailureClass {
    let says_little = ["ErrorInternalServerError", "ErrorInternalServerTransientError"];
    let telling = inner.filter(|_| says_little.contains(&code.0.as_str()));
    telling
        .and_then(class_of_code)
        .or_else(|| class_of_code(code))
        .unwrap_or(FailureClass::Transient)
}

fn class_of_code(code: &ResponseCode) -> Option<FailureClass> {
    TABLE
        .iter()
        .find(|(_, codes)| codes.contains(&code.0.as_str()))
        .map(|(class, _)| *class)
}

/// For an answer whose body says nothing more specific.
fn class_of_status(status: u16) -> FailureClass {
    match status {
        // 440 and 498: IIS and proxies when a session or a token has expired.
        401 | 407 | 440 | 498 => FailureClass::Credential,
        // EWS is disabled for the account, or a rule of this server refuses us.
        403 => FailureClass::RightsOfServer,
        429 | 503 => FailureClass::Throttled,
        413 => FailureClass::TooMuch,
        // There is no EWS at this address, or it has moved.
        300..=399 | 404 | 410 | 421 => FailureClass::Moved,
        408 | 425 => FailureClass::Transient,
        400..=499 => FailureClass::Request,
        _ => FailureClass::Transient,
    }
}

/// The rows of docs/spec/ews.md §1.8, followed by further codes of SOAP and Exchange.
const TABLE: &[(FailureClass, &[&str])] = &[
    (
        FailureClass::Lost,
        &[
            "ErrorSubscriptionNotFound",
            "ErrorInvalidSubscription",
            "ErrorExpiredSubscription",
            "ErrorSubscriptionUnsubscribed",
            // Misspelled like this in the documentation.
            "ErrorSubscriptionUnsubsribed",
            "ErrorReadEventsFailed",
            "ErrorEventNotFound",
            "ErrorInvalidWatermark",
            "ErrorMissedNotificationEvents",
            "ErrorProxiedSubscriptionCallFailure",
        ],
    ),
    (
        FailureClass::OtherOwner,
        &[
            "ErrorNewEventStreamConnectionOpened",
            "ErrorSubscriptionAccessDenied",
        ],
    ),
    (
        FailureClass::Moved,
        &[
            "ErrorMailboxMoveInProgress",
            "ErrorMailboxFailover",
            "ErrorMailboxStoreUnavailable",
            "ErrorConnectionFailed",
            "ErrorMailboxLogonFailed",
            "ErrorCrossSiteRequest",
            "ErrorProxyRequestNotAllowed",
            "ErrorNoApplicableProxyCASServersAvailable",
            "ErrorNoRespondingCASInDestinationSite",
            "ErrorNoDestinationCASDueToKerberosRequirements",
            "ErrorNoDestinationCASDueToSSLRequirements",
            "ErrorNoDestinationCASDueToVersionMismatch",
            "ErrorWrongServerVersion",
            "ErrorMultiLegacyMailboxAccess",
            // From the availability service, which asks other servers itself.
            "ErrorProxyRequestProcessingFailed",
            "ErrorServiceDiscoveryFailed",
        ],
    ),
    (
        FailureClass::Gone,
        &[
            "ErrorNonExistentMailbox",
            "ErrorMailRecipientNotFound",
            "ErrorAccountDisabled",
            "ErrorNoCalendar",
            "ErrorFolderNotFound",
            // From gromox.
            "ErrorCannotFindUser",
            "ErrorInvalidSmtpAddress",
            "ErrorMailboxConfiguration",
        ],
    ),
    (FailureClass::Identity, &["ErrorNonPrimarySmtpAddress"]),
    (
        FailureClass::Throttled,
        &[
            "ErrorServerBusy",
            "ErrorExceededConnectionCount",
            "ErrorExceededSubscriptionCount",
            "ErrorExceededFindCountLimit",
            "ErrorTimeoutExpired",
            "ErrorBatchProcessingStopped",
            "ErrorInsufficientResources",
            "ErrorNotEnoughMemory",
        ],
    ),
    (
        FailureClass::Transient,
        &[
            "ErrorInternalServerTransientError",
            "ErrorADUnavailable",
            "ErrorADOperation",
            "ErrorInternalServerError",
            "ErrorFreeBusyGenerationFailed",
            "Server",
            "Receiver",
        ],
    ),
    (
        FailureClass::Credential,
        &[
            "ErrorPasswordExpired",
            "ErrorPasswordChangeRequired",
            "ErrorCallerIsInvalidADAccount",
            "ErrorInvalidAuthorizationContext",
        ],
    ),
    (FailureClass::RightsOfServer, &["ErrorImpersonationDenied"]),
    (
        FailureClass::RightsOfUser,
        &[
            "ErrorImpersonateUserDenied",
            "ErrorImpersonationFailed",
            "ErrorInvalidUserPrincipalName",
            "ErrorInvalidUserSid",
            "ErrorInvalidSid",
            "ErrorInvalidExchangeImpersonationHeaderData",
            "ErrorSubscriptionDelegateAccessNotSupported",
            "ErrorNoFreeBusyAccess",
            "ErrorAccessDenied",
        ],
    ),
    (FailureClass::Version, &["ErrorInvalidServerVersion"]),
    (
        FailureClass::TooMuch,
        &[
            "ErrorCalendarViewRangeTooBig",
            "ErrorResultSetTooBig",
            "ErrorMailboxDataArrayTooBig",
            "ErrorTimeIntervalTooBig",
        ],
    ),
    (
        FailureClass::Request,
        &[
            "ErrorSchemaValidation",
            "ErrorInvalidRequest",
            "ErrorInvalidPushSubscriptionUrl",
            "ErrorInvalidPullSubscriptionId",
            "ErrorMoreThanOneAccessModeSpecified",
            "ErrorInvalidSubscriptionRequest",
            "Client",
            "Sender",
            "MustUnderstand",
            "VersionMismatch",
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use FailureClass as Class;

    fn response(code: &str, inner: Option<&str>) -> Failure {
        Failure::Response {
            code: ResponseCode(code.to_owned()),
            message: String::new(),
            back_off: None,
            primary_address: None,
            inner: inner.map(|inner| ResponseCode(inner.to_owned())),
        }
    }

    fn each_is(class: Class, codes: &str) {
        for code in codes.split_whitespace() {
            assert_eq!(response(code, None).class(), class, "{code}");
        }
    }

    #[test]
    fn a_subscription_that_is_gone_is_lost() {
        each_is(
            Class::Lost,
            "ErrorSubscriptionNotFound ErrorInvalidSubscription ErrorExpiredSubscription
             ErrorSubscriptionUnsubscribed ErrorSubscriptionUnsubsribed ErrorReadEventsFailed ErrorEventNotFound
             ErrorInvalidWatermark ErrorMissedNotificationEvents ErrorProxiedSubscriptionCallFailure",
        );
    }

    #[test]
    fn a_subscription_that_somebody_else_holds_has_another_owner() {
        each_is(
            Class::OtherOwner,
            "ErrorNewEventStreamConnectionOpened ErrorSubscriptionAccessDenied",
        );
    }

    #[test]
    fn a_mailbox_or_store_that_is_elsewhere_or_down_has_moved() {
        each_is(
            Class::Moved,
            "ErrorMailboxMoveInProgress ErrorMailboxFailover ErrorMailboxStoreUnavailable ErrorConnectionFailed
             ErrorMailboxLogonFailed ErrorCrossSiteRequest ErrorProxyRequestNotAllowed
             ErrorNoApplicableProxyCASServersAvailable ErrorNoRespondingCASInDestinationSite
             ErrorNoDestinationCASDueToKerberosRequirements ErrorNoDestinationCASDueToSSLRequirements
             ErrorNoDestinationCASDueToVersionMismatch ErrorWrongServerVersion ErrorMultiLegacyMailboxAccess",
        );
    }

    #[test]
    fn a_mailbox_that_does_not_exist_is_gone() {
        each_is(
            Class::Gone,
            "ErrorNonExistentMailbox ErrorMailRecipientNotFound ErrorAccountDisabled ErrorNoCalendar
             ErrorFolderNotFound ErrorCannotFindUser",
        );
    }

    #[test]
    fn an_address_that_is_not_the_primary_one_is_a_matter_of_identity() {
        each_is(Class::Identity, "ErrorNonPrimarySmtpAddress");
    }

    #[test]
    fn a_server_that_is_busy_throttles() {
        each_is(
            Class::Throttled,
            "ErrorServerBusy ErrorExceededConnectionCount ErrorExceededSubscriptionCount
             ErrorExceededFindCountLimit ErrorTimeoutExpired ErrorBatchProcessingStopped
             ErrorInsufficientResources",
        );
        let wrapped = response("ErrorInternalServerError", Some("ErrorServerBusy"));
        assert_eq!(wrapped.class(), Class::Throttled);
    }

    #[test]
    fn trouble_inside_the_server_is_transient() {
        each_is(
            Class::Transient,
            "ErrorInternalServerTransientError ErrorADUnavailable ErrorADOperation ErrorInternalServerError
             ErrorNobodyHasEverSeen",
        );
        let wrapped = response("ErrorInternalServerError", Some("ErrorNobodyHasEverSeen"));
        assert_eq!(wrapped.class(), Class::Transient);
        for failure in [
            Failure::Unreachable("refused".to_owned()),
            Failure::Tls("alert".to_owned()),
            Failure::TimedOut,
            Failure::Malformed("why"),
        ] {
            assert_eq!(failure.class(), Class::Transient, "{failure}");
        }
    }

    #[test]
    fn an_account_that_is_refused_is_a_matter_of_the_credential() {
        each_is(
            Class::Credential,
            "ErrorPasswordExpired ErrorPasswordChangeRequired ErrorCallerIsInvalidADAccount",
        );
        assert_eq!(Failure::Unauthorized(String::new()).class(), Class::Credential);
    }

    #[test]
    fn rights_are_denied_by_a_server_or_for_a_user() {
        each_is(Class::RightsOfServer, "ErrorImpersonationDenied");
        each_is(
            Class::RightsOfUser,
            "ErrorImpersonateUserDenied ErrorImpersonationFailed ErrorInvalidUserPrincipalName
             ErrorInvalidUserSid ErrorInvalidExchangeImpersonationHeaderData
             ErrorSubscriptionDelegateAccessNotSupported ErrorNoFreeBusyAccess",
        );
    }

    #[test]
    fn a_request_of_ours_is_too_new_too_large_or_wrong() {
        each_is(Class::Version, "ErrorInvalidServerVersion");
        each_is(
            Class::TooMuch,
            "ErrorCalendarViewRangeTooBig ErrorResultSetTooBig ErrorMailboxDataArrayTooBig",
        );
        assert_eq!(Failure::TooLarge.class(), Class::TooMuch);
        each_is(
            Class::Request,
            "ErrorSchemaValidation ErrorInvalidRequest ErrorInvalidPushSubscriptionUrl
             ErrorInvalidPullSubscriptionId ErrorMoreThanOneAccessModeSpecified",
        );
    }

    #[test]
    fn an_http_status_alone_has_a_class_too() {
        for (status, class) in [
            (401, Class::Credential),
            (403, Class::RightsOfServer),
            (404, Class::Moved),
            (302, Class::Moved),
            (400, Class::Request),
            (405, Class::Request),
            (413, Class::TooMuch),
            (408, Class::Transient),
            (429, Class::Throttled),
            (500, Class::Transient),
            (502, Class::Transient),
            (503, Class::Throttled),
            (504, Class::Transient),
            (0, Class::Transient),
        ] {
            let retry_after = None;
            assert_eq!(Failure::Http { status, retry_after }.class(), class, "{status}");
        }
    }

    #[test]
    fn only_an_internal_error_is_what_the_error_inside_it_is() {
        let denied = response("ErrorImpersonationDenied", Some("ErrorServerBusy"));
        assert_eq!(denied.class(), Class::RightsOfServer);
    }

    #[test]
    fn no_code_stands_in_two_rows() {
        let mut codes: Vec<_> = TABLE.iter().flat_map(|(_, codes)| codes.iter()).collect();
        let all = codes.len();
        codes.sort();
        codes.dedup();
        assert_eq!(codes.len(), all);
    }
}
