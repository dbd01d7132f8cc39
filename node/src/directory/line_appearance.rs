//! Which line on which device a user controls.

use thiserror::Error;

use super::{Directory, Line, LineUri, User, is_same};

/// A line on one device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineAppearance {
    pub number: String,
    pub partition: Option<String>,
    pub device: String,
    /// What the CTI managers call it, in a deviceID: the number, and the device behind it when the number alone
    /// would not say which.
    pub device_id: String,
}

/// Why there is no line appearance for a client. For the client these are 404, 403, 404 and 485.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LineError {
    #[error("no line has this number")]
    UnknownLine,
    #[error("the line is not the user's")]
    NotTheUsers,
    #[error("the line does not stand on this device")]
    UnknownDevice,
    #[error("the line stands on several devices: {}", .devices.join(", "))]
    SeveralDevices { devices: Vec<String> },
}

impl Directory {
    /// The line appearance that the user means: on the device that the line URI names, or on the only one there is.
    pub fn line_appearance(&self, user: &User, uri: &LineUri) -> Result<LineAppearance, LineError> {
        let lines: Vec<&Line> = self
            .lines_with_number(&uri.number)
            .filter(|line| line.is_in(uri.partition.as_deref()))
            .collect();
        if lines.is_empty() {
            return Err(LineError::UnknownLine);
        }
        let own: Vec<&Line> = lines.into_iter().filter(|line| line.belongs_to(user)).collect();
        if own.is_empty() {
            return Err(LineError::NotTheUsers);
        }
        self.choose(&own, uri.device.as_deref())
    }

    fn choose(&self, lines: &[&Line], named_device: Option<&str>) -> Result<LineAppearance, LineError> {
        let appearances = lines
            .iter()
            .flat_map(|line| line.devices.iter().map(move |device| (*line, device)));
        let wanted: Vec<(&Line, &String)> = appearances
            .filter(|(_, device)| named_device.is_none_or(|name| is_same(device, name)))
            .collect();
        match wanted[..] {
            [] => Err(LineError::UnknownDevice),
            [(line, device)] => Ok(self.appearance(line, device)),
            [..] => {
                let devices = wanted.into_iter().map(|(_, device)| device.clone()).collect();
                Err(LineError::SeveralDevices { devices })
            }
        }
    }

    fn appearance(&self, line: &Line, device: &str) -> LineAppearance {
        let number = &line.number;
        let alone = line.devices.len() == 1 && self.lines_with_number(number).count() == 1;
        LineAppearance {
            number: number.clone(),
            partition: line.partition.clone(),
            device: device.to_owned(),
            device_id: if alone {
                number.clone()
            } else {
                format!("{number};device={device}")
            },
        }
    }
}

impl Line {
    /// A line is in the partition that is named, and in any when none is.
    fn is_in(&self, named_partition: Option<&str>) -> bool {
        named_partition.is_none_or(|name| {
            self.partition
                .as_ref()
                .is_some_and(|partition| is_same(partition, name))
        })
    }

    fn belongs_to(&self, user: &User) -> bool {
        self.users.iter().any(|id| is_same(id, &user.id))
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::directory_of;
    use super::*;

    fn device_id(user: &str, uri: &str) -> Result<String, LineError> {
        let directory = directory_of(
            r#"
            user = [{ id = "joe" }, { id = "anne" }]
            device = [{ name = "SEP1" }, { name = "SEP2" }, { name = "SEP3" }]
            line = [
                { number = "4711", devices = ["SEP1"], users = ["Joe"] },
                { number = "4712", devices = ["SEP1", "SEP2"], users = ["joe", "anne"] },
                { number = "4713", partition = "north", devices = ["SEP1"], users = ["joe"] },
                { number = "4713", partition = "south", devices = ["SEP3"], users = ["joe"] },
            ]
            "#,
        );
        let uri = LineUri::parse(uri).unwrap();
        let user = directory.user(user).unwrap();
        directory
            .line_appearance(user, &uri)
            .map(|appearance| appearance.device_id)
    }

    #[test]
    fn the_only_device_of_a_line_need_not_be_named() {
        assert_eq!(
            device_id("joe", "tel:4711;phone-context=dialstring"),
            Ok("4711".to_owned())
        );
        assert_eq!(device_id("joe", "tel:4711;device=sep1"), Ok("4711".to_owned()));
    }

    #[test]
    fn one_of_several_devices_must_be_named() {
        let devices = vec!["SEP1".to_owned(), "SEP2".to_owned()];
        assert_eq!(
            device_id("anne", "tel:4712"),
            Err(LineError::SeveralDevices { devices })
        );
        assert_eq!(
            device_id("anne", "tel:4712;device=Sep2"),
            Ok("4712;device=SEP2".to_owned())
        );
    }

    #[test]
    fn a_partition_tells_lines_of_one_number_apart() {
        assert_eq!(
            device_id("joe", "tel:4713;partition=South"),
            Ok("4713;device=SEP3".to_owned())
        );
        assert!(matches!(
            device_id("joe", "tel:4713"),
            Err(LineError::SeveralDevices { .. })
        ));
        assert_eq!(
            device_id("joe", "tel:4713;partition=west"),
            Err(LineError::UnknownLine)
        );
    }

    #[test]
    fn a_line_that_is_unknown_or_not_the_users_is_refused() {
        assert_eq!(device_id("joe", "tel:4999"), Err(LineError::UnknownLine));
        assert_eq!(device_id("anne", "tel:4711"), Err(LineError::NotTheUsers));
        assert_eq!(
            device_id("joe", "tel:4711;device=SEP3"),
            Err(LineError::UnknownDevice)
        );
    }
}
