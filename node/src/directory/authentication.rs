//! Which user a client is. The communications server has authenticated the From; we only look it up.

use tandem_sip::{SipUri, Uri};
use thiserror::Error;

use super::{Directory, RemoteCallControl, User};

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthenticationError {
    #[error("From is not a SIP URI")]
    NotASipUri,
    #[error("no user has this address")]
    UnknownUser,
    #[error("user {user} has no remote call control")]
    NotEnabled { user: String },
}

impl Directory {
    /// The user behind a From URI. In this order: its user part is a user id; its address is a user's mail; `sip:`
    /// and its address is a user's ocsPrimaryAddress. The first that fits decides, even if it is not enabled.
    pub fn authenticate(&self, from_uri: &str) -> Result<&User, AuthenticationError> {
        let uri = Uri::parse(from_uri).map_err(|_| AuthenticationError::NotASipUri)?;
        let uri = uri.as_sip().ok_or(AuthenticationError::NotASipUri)?;
        let user = self.find(uri).ok_or(AuthenticationError::UnknownUser)?;
        match user.remote_call_control {
            RemoteCallControl::Enabled => Ok(user),
            RemoteCallControl::Disabled => Err(AuthenticationError::NotEnabled {
                user: user.id.clone(),
            }),
        }
    }

    /// The user whom a URI names, in the same order, whether he has remote call control or not.
    #[must_use]
    pub fn user_by_uri(&self, uri: &str) -> Option<&User> {
        let uri = Uri::parse(uri).ok()?;
        self.find(uri.as_sip()?)
    }

    fn find(&self, uri: &SipUri) -> Option<&User> {
        let address = uri.address();
        // The address holds the user part with its escapes resolved; a URI without a user part has no `@` in it.
        let (user_part, _) = address.rsplit_once('@')?;
        self.user(user_part)
            .or_else(|| self.user_by_mail(&address))
            .or_else(|| self.user_by_ocs_primary_address(&format!("sip:{address}")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::directory_of;
    use super::*;

    fn id(from_uri: &str) -> Result<String, AuthenticationError> {
        let directory = directory_of(
            r#"
            [[user]]
            id = "Joe"
            mail = "joe.smith@example.com"
            ocs_primary_address = "sip:j.smith@ocs.example.com"
            [[user]]
            id = "anne"
            remote_call_control = false
            [[user]]
            id = "other"
            mail = "joe@example.com"
            "#,
        );
        directory.authenticate(from_uri).map(|user| user.id.clone())
    }

    #[test]
    fn the_user_part_is_a_user_id_in_any_case() {
        assert_eq!(id("sip:joe@anywhere"), Ok("Joe".to_owned()));
        assert_eq!(id("sips:JOE@anywhere:5061;transport=tls"), Ok("Joe".to_owned()));
        assert_eq!(id("sip:j%6fe@anywhere"), Ok("Joe".to_owned()));
    }

    #[test]
    fn the_user_id_goes_before_the_mail_of_another() {
        assert_eq!(id("sip:joe@example.com"), Ok("Joe".to_owned()));
    }

    #[test]
    fn mail_and_then_the_ocs_primary_address_decide_when_no_id_fits() {
        assert_eq!(id("sip:Joe.Smith@Example.com"), Ok("Joe".to_owned()));
        assert_eq!(id("sip:j.smith@ocs.example.com"), Ok("Joe".to_owned()));
        assert_eq!(
            id("sip:j.smith@example.com"),
            Err(AuthenticationError::UnknownUser)
        );
    }

    #[test]
    fn a_user_without_remote_call_control_is_refused() {
        let refused = AuthenticationError::NotEnabled {
            user: "anne".to_owned(),
        };
        assert_eq!(id("sip:anne@example.com"), Err(refused));
    }

    #[test]
    fn what_is_no_sip_address_is_refused() {
        assert_eq!(id("tel:4711"), Err(AuthenticationError::NotASipUri));
        assert_eq!(id("joe"), Err(AuthenticationError::NotASipUri));
        assert_eq!(id("sip:example.com"), Err(AuthenticationError::UnknownUser));
    }
}
