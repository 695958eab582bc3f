//! Reading columns of one parquet file: scalars, lists and lists of lists, by the feature's key.
//!
//! A column is found by the first part of its path, so it does not matter whether the writer called the
//! inner levels `list.element`, `list.item` or `bag.array`. Numbers of every physical type are read as what the
//! caller wants.

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::table::parquet_error;
use crate::{Error, Result};

// Records a call: bounds what a wrong row count in a footer can ask for.
const BATCH: usize = 16_384;

/// One open parquet file.
pub(crate) struct TableFile {
    path: PathBuf,
    reader: SerializedFileReader<File>,
}

/// Values of a column and how many each row has.
struct Leaf<T> {
    values: Vec<T>,
    lengths: Vec<usize>,
}

impl TableFile {
    /// Opens the file; `what` says in the error what it was needed for.
    pub(crate) fn open(path: &Path, what: &str) -> Result<Self> {
        let file = File::open(path).map_err(|e| {
            if e.kind() == std::io::ErrorKind::NotFound {
                Error::config(path, format!("the file is missing; it holds {what}"))
            } else {
                Error::io(path, e)
            }
        })?;
        let reader = SerializedFileReader::new(file).map_err(|e| parquet_error(path, e))?;
        Ok(Self { path: path.to_owned(), reader })
    }

    /// The file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Number of rows, as the footer says.
    pub(crate) fn rows(&self) -> usize {
        usize::try_from(self.reader.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// Names of the columns, the first part of each path, in the order of the file.
    pub(crate) fn names(&self) -> Vec<String> {
        let schema = self.reader.metadata().file_metadata().schema();
        schema.get_fields().iter().map(|f| f.name().to_owned()).collect()
    }

    /// Reads a column of numbers with `dim` values a row; `to` gets each as f64, exact for integers below
    /// 2^53.
    pub(crate) fn numbers<N>(
        &self,
        name: &str,
        dim: usize,
        to: impl Fn(f64) -> N,
    ) -> Result<Vec<N>> {
        let mut out = Vec::new();
        self.each_group(name, |rows, reader| {
            let start = out.len();
            let out = &mut out;
            let lengths = match reader {
                ColumnReader::FloatColumnReader(r) => take(r, rows, out, |v| to(f64::from(*v))),
                ColumnReader::DoubleColumnReader(r) => take(r, rows, out, |v| to(*v)),
                ColumnReader::Int64ColumnReader(r) => take(r, rows, out, |v| to(*v as f64)),
                ColumnReader::Int32ColumnReader(r) => take(r, rows, out, |v| to(f64::from(*v))),
                ColumnReader::BoolColumnReader(r) => {
                    take(r, rows, out, |v| to(f64::from(u8::from(*v))))
                }
                _ => Err("expected numbers, the column holds bytes".into()),
            }?;
            match lengths.iter().position(|l| *l != dim) {
                Some(row) => {
                    let row_in_file = start / dim + row;
                    let got = lengths[row];
                    Err(format!(
                        "row {row_in_file}: expected {dim} values without nulls, got {got}"
                    ))
                }
                None => Ok(()),
            }
        })?;
        Ok(out)
    }

    /// Reads a column of integers, one a row, none negative.
    pub(crate) fn indices(&self, name: &str) -> Result<Vec<usize>> {
        let numbers = self.numbers(name, 1, |v| v)?;
        match numbers.iter().position(|v| *v < 0.0 || v.fract() != 0.0) {
            Some(row) => {
                let value = numbers[row];
                Err(self.wrong(name, &format!("row {row}: expected an index, got {value}")))
            }
            None => Ok(numbers.into_iter().map(|v| v as usize).collect()),
        }
    }

    /// Reads a column of texts or of lists of texts: per row its texts.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<Vec<String>>> {
        let mut out = Vec::new();
        self.each_group(name, |rows, reader| {
            let ColumnReader::ByteArrayColumnReader(r) = reader else {
                return Err("expected text".into());
            };
            let leaf = drain(r, rows)?;
            let mut values = leaf.values.iter();
            for length in leaf.lengths {
                let row = values.by_ref().take(length).map(|v| {
                    v.as_utf8().map(str::to_owned).map_err(|_| "expected UTF-8 text".to_owned())
                });
                out.push(row.collect::<Result<Vec<_>, _>>()?);
            }
            Ok(())
        })?;
        Ok(out)
    }

    fn each_group(
        &self,
        name: &str,
        mut read: impl FnMut(usize, &mut ColumnReader) -> Result<(), String>,
    ) -> Result<()> {
        let metadata = self.reader.metadata();
        let schema = metadata.file_metadata().schema_descr();
        let mut leaves = (0..schema.num_columns())
            .filter(|i| schema.column(*i).path().parts().first().is_some_and(|p| p == name));
        let Some(column) = leaves.next() else {
            let names = self.names().join(", ");
            return Err(self.wrong(name, &format!("no such column; the file has {names}")));
        };
        if leaves.next().is_some() {
            return Err(
                self.wrong(name, "expected one value or a list a row, the column is a struct")
            );
        }
        for index in 0..metadata.num_row_groups() {
            let group =
                self.reader.get_row_group(index).map_err(|e| parquet_error(&self.path, e))?;
            let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
            let mut reader =
                group.get_column_reader(column).map_err(|e| parquet_error(&self.path, e))?;
            read(rows, &mut reader).map_err(|message| self.wrong(name, &message))?;
        }
        Ok(())
    }

    fn wrong(&self, name: &str, message: &str) -> Error {
        Error::config(&self.path, format!("{name}: {message}"))
    }
}

fn take<T: DataType, N>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    out: &mut Vec<N>,
    convert: impl Fn(&T::T) -> N,
) -> Result<Vec<usize>, String> {
    let leaf = drain(reader, rows)?;
    out.extend(leaf.values.iter().map(convert));
    Ok(leaf.lengths)
}

// All rows of one row group. A null (a definition level below the column's highest) adds no value, so that
// its row comes out shorter than it should be.
fn drain<T: DataType>(reader: &mut ColumnReaderImpl<T>, rows: usize) -> Result<Leaf<T::T>, String> {
    let (mut values, mut lengths) = (Vec::new(), Vec::new());
    let (mut definition, mut repetition) = (Vec::new(), Vec::new());
    let mut levels = 0;
    let mut seen = 0;
    while seen < rows {
        let batch = (rows - seen).min(BATCH);
        let (records, _, read) = reader
            .read_records(batch, Some(&mut definition), Some(&mut repetition), &mut values)
            .map_err(|e| e.to_string())?;
        if records == 0 {
            return Err(format!("expected {rows} rows, the column ends after {seen}"));
        }
        seen += records;
        levels += read;
    }
    // A required scalar has no levels at all.
    let highest = definition.iter().copied().max().unwrap_or(0);
    for i in 0..levels {
        if repetition.get(i).is_none_or(|r| *r == 0) {
            lengths.push(0);
        }
        if definition.get(i).is_none_or(|d| *d == highest)
            && let Some(length) = lengths.last_mut()
        {
            *length += 1;
        }
    }
    let counted: usize = lengths.iter().sum();
    if counted != values.len() {
        return Err(format!("expected {counted} values, got {}", values.len()));
    }
    Ok(Leaf { values, lengths })
}
