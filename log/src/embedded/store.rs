//! The database file. It is verified when it is opened, and read through snapshots.
//!
//! Invariants: a file is used only after its checksums are verified, so no other module reads corrupt data. A new file
//! is created under another name and renamed when it is complete, so an empty file is a damaged one, not a new one.

use std::{
    any::Any,
    fs::{self, File},
    io::ErrorKind,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{
    Builder, Database, DatabaseError, ReadOnlyDatabase, ReadOnlyTable, ReadTransaction,
    ReadableDatabase, ReadableTable, StorageError, backends::InMemoryBackend,
};

use super::{
    source::{Page, Source},
    tables::{
        FENCES, FORMAT, FORMAT_KEY, FORMAT_VERSION, NEWEST, PARTITIONS, PartitionId, PartitionRow,
        RECORDS, RecordRow, TIMES, TOMBSTONES, TOPICS, TopicRow, decode_headers,
    },
    topics::Topic,
};
use crate::{LogError, Record, TopicDescription};

const FILE: &str = "log.redb";
/// Name of a database that is being created; it is renamed to [`FILE`] when it is complete.
const UNFINISHED_FILE: &str = "log.redb.new";
/// Lock file that a process holds while it creates and opens the database, so that two processes cannot both create it.
const OPENING_FILE: &str = "opening.lock";

/// Bytes of redb's page cache: enough for the inner pages of the tables and the newest records. The kernel caches the
/// rest of the file.
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// The database, and its directory for error messages.
pub(super) struct Store {
    db: Db,
    dir: PathBuf,
}

enum Db {
    Owned(Database),
    ReadOnly(ReadOnlyDatabase),
}

impl Store {
    /// Opens the database in `dir` for writing, or creates it.
    pub(super) fn open(dir: &Path) -> Result<Self, LogError> {
        let disk = |error: std::io::Error| LogError::Disk {
            dir: dir.into(),
            detail: error.to_string(),
        };
        fs::create_dir_all(dir).map_err(disk)?;
        let opening = File::create(dir.join(OPENING_FILE)).map_err(disk)?;
        opening.lock().map_err(disk)?;
        let file = dir.join(FILE);
        if !file.try_exists().map_err(disk)? {
            make(dir)?;
        }
        Self::checked(dir, || builder().open(&file))
    }

    /// Returns a database in memory, whose records are lost when the store is dropped.
    pub(super) fn in_memory() -> Result<Self, LogError> {
        let dir = PathBuf::from("memory");
        let store = Self::checked(&dir, || {
            builder().create_with_backend(InMemoryBackend::new())
        })?;
        Ok(store)
    }

    fn checked(
        dir: &Path,
        open: impl FnOnce() -> Result<Database, DatabaseError>,
    ) -> Result<Self, LogError> {
        // redb checks the file and returns an error if it is damaged. redb may panic on a file that was tampered with,
        // so a panic also means a damaged file.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let db = open().map_err(|error| opening_error(dir, error))?;
            initialise(&db).map_err(|error| store_error(dir, error))??;
            Ok(db)
        }));
        let db = opened.map_err(|panic| damaged(dir, panic_text(panic.as_ref())))??;
        Ok(Self {
            db: Db::Owned(db),
            dir: dir.into(),
        })
    }

    /// Opens the database in `dir` only for reading. While it is open, no process can write to it. Returns
    /// [`LogError::InUse`] while a process has it open for writing.
    pub(super) fn open_read_only(dir: &Path) -> Result<Self, LogError> {
        let file = dir.join(FILE);
        if !file.exists() {
            let detail = format!(
                "the directory has no file {FILE}: no log was created in this --data directory yet"
            );
            return Err(LogError::Disk {
                dir: dir.into(),
                detail,
            });
        }
        // Opening the file for writing checks it, and repairs it after a crash. On a read-only disk this fails, and the
        // file is read as it is.
        match Self::open(dir) {
            Ok(checked) => drop(checked),
            Err(LogError::Disk { .. }) => {}
            Err(error) => return Err(error),
        }
        let db = builder()
            .open_read_only(&file)
            .map_err(|error| opening_error(dir, error))?;
        Ok(Self {
            db: Db::ReadOnly(db),
            dir: dir.into(),
        })
    }

    /// Returns the database for writing; `None` if it was opened read-only.
    pub(super) fn writable(&self) -> Option<&Database> {
        match &self.db {
            Db::Owned(db) => Some(db),
            Db::ReadOnly(_) => None,
        }
    }

    /// Converts a failure of the database to the error of the log.
    pub(super) fn error(&self, error: impl Into<redb::Error>) -> LogError {
        store_error(&self.dir, error)
    }

    /// Returns all topics with the rows of their partitions.
    pub(super) fn topics(&self) -> Result<Vec<(String, TopicRow, Vec<PartitionRow>)>, LogError> {
        let read = || -> Result<_, redb::Error> {
            let snapshot = self.snapshot()?;
            let partitions = snapshot.open_table(PARTITIONS)?;
            let mut topics = Vec::new();
            for entry in snapshot.open_table(TOPICS)?.iter()? {
                let (name, row) = entry?;
                let row = row.value();
                let rows = partition_rows(&partitions, row.0)?;
                topics.push((name.value().to_owned(), row, rows));
            }
            Ok(topics)
        };
        read().map_err(|error| self.error(error))
    }

    fn snapshot(&self) -> Result<ReadTransaction, redb::Error> {
        Ok(match &self.db {
            Db::Owned(db) => db.begin_read()?,
            Db::ReadOnly(db) => db.begin_read()?,
        })
    }

    /// Returns the row of the topic.
    fn topic(&self, topic: &str) -> Result<TopicRow, LogError> {
        let read = || -> Result<_, redb::Error> {
            let topics = self.snapshot()?.open_table(TOPICS)?;
            Ok(topics.get(topic)?.map(|row| row.value()))
        };
        let row = read().map_err(|error| self.error(error))?;
        row.ok_or_else(|| LogError::UnknownTopic {
            topic: topic.to_owned(),
        })
    }

    /// Returns a snapshot, and in it the topic's id and the rows of its partitions.
    fn topic_with_partitions(
        &self,
        topic: &str,
    ) -> Result<(ReadTransaction, u32, Vec<PartitionRow>), LogError> {
        let (id, ..) = self.topic(topic)?;
        let read = || -> Result<_, redb::Error> {
            let snapshot = self.snapshot()?;
            let rows = partition_rows(&snapshot.open_table(PARTITIONS)?, id)?;
            Ok((snapshot, id, rows))
        };
        read().map_err(|error| self.error(error))
    }

    /// Returns a snapshot, and in it the id and the row of the partition.
    fn locate(
        &self,
        topic: &str,
        partition: u32,
    ) -> Result<(ReadTransaction, PartitionId, PartitionRow), LogError> {
        let read = || -> Result<_, redb::Error> {
            let snapshot = self.snapshot()?;
            let row = snapshot
                .open_table(TOPICS)?
                .get(topic)?
                .map(|row| row.value());
            let Some((id, ..)) = row else {
                return Ok(Err(LogError::UnknownTopic {
                    topic: topic.to_owned(),
                }));
            };
            let row = snapshot
                .open_table(PARTITIONS)?
                .get((id, partition))?
                .map(|row| row.value());
            Ok(match row {
                Some(row) => Ok((snapshot, (id, partition), row)),
                None => Err(LogError::UnknownPartition {
                    topic: topic.to_owned(),
                    partition,
                }),
            })
        };
        read().map_err(|error| self.error(error))?
    }
}

impl Source for Store {
    fn describe(&self, topic: &str) -> Result<TopicDescription, LogError> {
        let row = self.topic(topic)?;
        Ok(Topic::new(topic, row, vec![0; row.1 as usize]).describe())
    }

    fn offsets(&self, topic: &str) -> Result<Vec<Range<u64>>, LogError> {
        let (.., rows) = self.topic_with_partitions(topic)?;
        Ok(rows
            .into_iter()
            .map(|(start, next, ..)| start..next)
            .collect())
    }

    fn offsets_at(&self, topic: &str, time_ms: u64) -> Result<Vec<u64>, LogError> {
        let (snapshot, id, rows) = self.topic_with_partitions(topic)?;
        let find = || -> Result<_, redb::Error> {
            let times = snapshot.open_table(TIMES)?;
            let records = snapshot.open_table(RECORDS)?;
            (0..)
                .zip(&rows)
                .map(|(partition, row)| offset_at(&times, &records, (id, partition), row, time_ms))
                .collect()
        };
        find().map_err(|error| self.error(error))
    }

    fn read(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        limit: usize,
        each: &mut dyn FnMut(Record<'_>) -> bool,
    ) -> Result<Page, LogError> {
        let (snapshot, (id, partition), (start, next, ..)) = self.locate(topic, partition)?;
        if from < start || from > next {
            return Err(LogError::Expired {
                topic: topic.to_owned(),
                partition,
                offset: from,
                start,
            });
        }
        let mut page = Page {
            count: 0,
            next: from,
            at_end: false,
        };
        // Passes the records to `each`. Returns whether all of them were consumed.
        let mut hand_out = || -> Result<bool, redb::Error> {
            let records = snapshot.open_table(RECORDS)?;
            for entry in records
                .range((id, partition, from)..(id, partition, next))?
                .take(limit)
            {
                let (key, row) = entry?;
                let offset = key.value().2;
                let (time_ms, key, value, stored) = row.value();
                let headers = decode_headers(stored).ok_or_else(|| {
                    redb::Error::Corrupted(format!(
                        "the headers of the record at offset {offset} are damaged"
                    ))
                })?;
                let consumed = each(Record {
                    partition,
                    offset,
                    time_ms,
                    key,
                    value,
                    headers: &headers,
                });
                if !consumed {
                    page.next = offset;
                    return Ok(false);
                }
                page.count += 1;
                page.next = offset + 1;
            }
            Ok(true)
        };
        let consumed = hand_out().map_err(|error| self.error(error))?;
        if consumed && page.count < limit {
            // There is no further record: the remaining offsets belong to records that compaction has deleted.
            page.next = next;
        }
        page.at_end = page.next == next;
        Ok(page)
    }
}

/// Returns the rows of a topic's partitions, in their order.
fn partition_rows(
    partitions: &ReadOnlyTable<PartitionId, PartitionRow>,
    topic_id: u32,
) -> Result<Vec<PartitionRow>, StorageError> {
    let rows = partitions.range((topic_id, 0)..=(topic_id, u32::MAX))?;
    rows.map(|entry| Ok(entry?.1.value())).collect()
}

/// Returns the offset of the first record of a partition whose time is `time_ms` or later; the next offset of the
/// partition if there is no such record.
fn offset_at(
    times: &ReadOnlyTable<(u32, u32, u64), u64>,
    records: &ReadOnlyTable<(u32, u32, u64), RecordRow<'static>>,
    (id, partition): PartitionId,
    (start, next, ..): &PartitionRow,
    time_ms: u64,
) -> Result<u64, redb::Error> {
    let first_from = |from: u64, to: u64| -> Result<Option<u64>, redb::Error> {
        for entry in records.range((id, partition, from)..(id, partition, to))? {
            let (key, row) = entry?;
            if row.value().0 >= time_ms {
                return Ok(Some(key.value().2));
            }
        }
        Ok(None)
    };
    // The first stored records may have no entry in TIMES: a record before them had a greater time, and retention has
    // deleted that record with its entry. There are few such records, so they are read one by one. TIMES covers all
    // later records.
    let indexed = times
        .range((id, partition, 0)..=(id, partition, u64::MAX))?
        .next();
    let indexed_from = indexed
        .transpose()?
        .map_or(*next, |(_, offset)| offset.value());
    if let Some(found) = first_from(*start, indexed_from)? {
        return Ok(found);
    }
    let reached = times
        .range((id, partition, time_ms)..=(id, partition, u64::MAX))?
        .next();
    let Some(from) = reached.transpose()?.map(|(_, offset)| offset.value()) else {
        return Ok(*next);
    };
    // Compaction may have deleted the record of the entry, so the search begins at the offset of the entry.
    Ok(first_from(from, *next)?.unwrap_or(*next))
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true);
    builder
}

/// Creates a new database in `dir`. The file gets its name only when it is complete.
fn make(dir: &Path) -> Result<(), LogError> {
    let disk = |error: std::io::Error| LogError::Disk {
        dir: dir.into(),
        detail: error.to_string(),
    };
    let unfinished = dir.join(UNFINISHED_FILE);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(disk(error)),
        _ => {}
    }
    drop(Store::checked(dir, || builder().create(&unfinished))?);
    fs::rename(&unfinished, dir.join(FILE)).map_err(disk)?;
    // The rename is durable only after an fsync of the directory.
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(disk)
}

/// Creates the tables in a new file, so that readers find them. Refuses a file with another layout version.
fn initialise(db: &Database) -> Result<Result<(), LogError>, redb::Error> {
    let known = match db.begin_read()?.open_table(FORMAT) {
        Ok(format) => format.get(FORMAT_KEY)?.map(|version| version.value()),
        Err(redb::TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(error.into()),
    };
    match known {
        Some(FORMAT_VERSION) => return Ok(Ok(())),
        Some(other) => {
            let detail = format!(
                "its layout is version {other}, this program reads {FORMAT_VERSION}; use the version of emostream that wrote it"
            );
            return Ok(Err(LogError::Refused(detail)));
        }
        None => {}
    }
    let making = db.begin_write()?;
    making
        .open_table(FORMAT)?
        .insert(FORMAT_KEY, FORMAT_VERSION)?;
    making.open_table(TOPICS)?;
    making.open_table(PARTITIONS)?;
    making.open_table(RECORDS)?;
    making.open_table(TIMES)?;
    making.open_table(NEWEST)?;
    making.open_table(TOMBSTONES)?;
    making.open_table(FENCES)?;
    making.commit()?;
    Ok(Ok(()))
}

fn opening_error(dir: &Path, error: DatabaseError) -> LogError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => LogError::InUse { dir: dir.into() },
        other => store_error(dir, other),
    }
}

fn store_error(dir: &Path, error: impl Into<redb::Error>) -> LogError {
    match error.into() {
        redb::Error::Io(error)
            if !matches!(
                error.kind(),
                ErrorKind::InvalidData | ErrorKind::UnexpectedEof
            ) =>
        {
            LogError::Disk {
                dir: dir.into(),
                detail: error.to_string(),
            }
        }
        redb::Error::PreviousIo => LogError::Disk {
            dir: dir.into(),
            detail: "the disk failed earlier; free space on it or repair it, then restart"
                .to_owned(),
        },
        other => damaged(dir, other.to_string()),
    }
}

fn damaged(dir: &Path, detail: String) -> LogError {
    LogError::Damaged {
        dir: dir.into(),
        detail,
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "the database library ended with a panic".to_owned())
}
