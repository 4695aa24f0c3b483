//! The hours of the day in which planned moves and reshardings go on.

use std::fmt;
use std::str::FromStr;

use time::OffsetDateTime;

/// From one time of the day to another, UTC; over midnight if the first is the later one. The pods' clocks
/// decide, each for what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveHours {
    /// Minutes since midnight.
    from: u16,
    /// The first minute that is no longer one of them.
    to: u16,
}

/// Not two times of the day.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not like 22:00-06:00")]
pub struct NoHours(String);

impl MoveHours {
    /// Whether it is time.
    pub fn contain(self, at: OffsetDateTime) -> bool {
        let at = u16::from(at.hour()) * 60 + u16::from(at.minute());
        match self.from <= self.to {
            true => self.from <= at && at < self.to,
            false => self.from <= at || at < self.to,
        }
    }
}

impl FromStr for MoveHours {
    type Err = NoHours;

    fn from_str(text: &str) -> Result<Self, NoHours> {
        let minute = |time: &str| {
            let (hour, minute) = time.trim().split_once(':')?;
            let (hour, minute) = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
            (hour < 24 && minute < 60).then_some(hour * 60 + minute)
        };
        let (from, to) = text.split_once('-').ok_or_else(|| NoHours(text.to_owned()))?;
        match (minute(from), minute(to)) {
            (Some(from), Some(to)) if from != to => Ok(Self { from, to }),
            _ => Err(NoHours(text.to_owned())),
        }
    }
}

impl fmt::Display for MoveHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: i64, minute: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::minutes(hour * 60 + minute)
    }

    #[test]
    fn hours_may_go_over_midnight() {
        let day: MoveHours = "9:30-17:00".parse().expect("hours");
        for (hour, minute, is_time) in
            [(9, 29, false), (9, 30, true), (16, 59, true), (17, 0, false), (0, 0, false)]
        {
            assert_eq!(day.contain(at(hour, minute)), is_time, "{hour}:{minute}");
        }
        let night: MoveHours = "22:00-06:00".parse().expect("hours");
        for (hour, minute, is_time) in
            [(21, 59, false), (22, 0, true), (0, 0, true), (5, 59, true), (6, 0, false)]
        {
            assert_eq!(night.contain(at(hour, minute)), is_time, "{hour}:{minute}");
        }
        assert_eq!(night.to_string(), "22:00-06:00");
    }

    #[test]
    fn what_is_not_two_times_is_refused() {
        for text in ["", "22:00", "22-6", "24:00-06:00", "22:60-06:00", "06:00-06:00", "a:b-c:d"] {
            assert!(text.parse::<MoveHours>().is_err(), "{text}");
        }
    }
}
