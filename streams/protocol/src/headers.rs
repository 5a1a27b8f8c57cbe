//! Headers of records that programs besides the streams application write or read.

use crate::{ResultOrder, Window};

/// Header of a source record: the process that wrote it, as `<host name>-<4 hexadecimal digits>`. The clock of that
/// process sets the time of the record. So the application can report a process whose clock differs from the others.
pub const INSTANCE_HEADER: &str = "instance";

/// Header of results (finals and tables): the number of times that progress was reset to an earlier time before the
/// result was written, as decimal text. The header is absent if the number is 0. Results are ordered by this number
/// first and by their window second.
pub const RESETS_HEADER: &str = "resets";

/// Header of a final with which the totals of its key begin at 0: the key is new, or its previous final is older than
/// the retention of the table. The value is empty.
pub const TOTALS_BEGIN_HEADER: &str = "totals-begin";

/// Header of a tombstone, which is a record without a value that removes its key from a table. The header has the start
/// of the window at whose close the key was removed, in Unix milliseconds, as decimal text. The tombstone does not
/// remove finals of that window or of later windows.
pub const REMOVED_HEADER: &str = "removed-before";

/// The parsed headers of a result: a final, or a record of a table.
///
/// ```
/// use emostream_protocol::{RESETS_HEADER, ResultHeaders, TOTALS_BEGIN_HEADER};
///
/// let headers = ResultHeaders::parse([(RESETS_HEADER, &b"2"[..]), (TOTALS_BEGIN_HEADER, b"")]);
/// assert_eq!((headers.resets, headers.totals_begin), (2, true));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResultHeaders {
    /// The number of times that progress was reset to an earlier time before the result was written. 0 if the header is
    /// absent or not a number.
    pub resets: u64,
    /// Whether the totals of the key begin at 0 with this final.
    pub totals_begin: bool,
    removed_before_ms: Option<u64>,
}

impl ResultHeaders {
    /// Parses headers, which are pairs of a name and a value. If several headers have the same name, the first one is
    /// used.
    pub fn parse<'a>(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let (mut resets, mut removed_before_ms, mut totals_begin) = (None, None, false);
        for (name, value) in headers {
            match name {
                RESETS_HEADER => _ = resets.get_or_insert_with(|| number(value)),
                REMOVED_HEADER => _ = removed_before_ms.get_or_insert_with(|| number(value)),
                TOTALS_BEGIN_HEADER => totals_begin = true,
                _ => {}
            }
        }
        Self {
            resets: resets.flatten().unwrap_or(0),
            totals_begin,
            removed_before_ms: removed_before_ms.flatten(),
        }
    }

    /// Returns the order of a result of `window`.
    pub fn order(&self, window: Window) -> ResultOrder {
        ResultOrder::new(self.resets, window)
    }

    /// Returns the order before which a tombstone (a record without a value) removes the finals of its key. `None` if
    /// there is no valid `removed-before` header: then another program has deleted the key, and it is not known which
    /// finals are removed.
    pub fn removed_before(&self) -> Option<ResultOrder> {
        self.removed_before_ms.map(|start_ms| ResultOrder {
            resets: self.resets,
            start_ms,
        })
    }
}

/// Parses the decimal number in a header.
fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_whose_number_cannot_be_read_counts_as_before_any_reset() {
        let of = |value: &str| ResultHeaders::parse([(RESETS_HEADER, value.as_bytes())]).resets;
        assert_eq!(["12", "", "-1", "many"].map(of), [12, 0, 0, 0]);
    }

    #[test]
    fn totals_begin_with_a_header_of_any_value() {
        let begins = |name| ResultHeaders::parse([(name, &b"x"[..])]).totals_begin;
        assert_eq!([TOTALS_BEGIN_HEADER, "other"].map(begins), [true, false]);
    }

    #[test]
    fn a_tombstone_is_parsed_as_an_order() {
        let of = |headers: &[(&str, &str)]| {
            let headers = headers
                .iter()
                .map(|(name, value)| (*name, value.as_bytes()));
            ResultHeaders::parse(headers).removed_before()
        };
        let before = (REMOVED_HEADER, "4000");
        let order = |resets, start_ms| Some(ResultOrder { resets, start_ms });
        assert_eq!(of(&[before]), order(0, 4000));
        assert_eq!(of(&[before, (RESETS_HEADER, "2")]), order(2, 4000));
        assert_eq!(of(&[]), None, "deleted by another program");
        assert_eq!(of(&[(REMOVED_HEADER, "soon")]), None);
    }
}
