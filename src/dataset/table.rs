//! Writing one parquet file column by column, in row groups of bounded size.
//!
//! Two shapes of column are enough here: a scalar, and a list whose rows all have the same length. Both are
//! nullable in the schema, as pyarrow writes them, and hold no nulls: a scalar has definition level 1, a
//! list's element 3, and its repetition level is 0 where a row begins and 1 elsewhere.
//!
//! Source: parquet's own description of nested encoding (Dremel levels); schema as pyarrow 26 writes it.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{ColumnPath, Type, TypePtr};

use crate::{Error, Result};

/// Values of one column, rows one after the other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cells {
    F32(Vec<f32>),
    F64(Vec<f64>),
    I64(Vec<i64>),
    Bool(Vec<bool>),
    Text(Vec<String>),
}

impl Cells {
    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::Text(v) => v.len(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::F32(v) => v.len() * 4,
            Self::F64(v) => v.len() * 8,
            Self::I64(v) => v.len() * 8,
            Self::Bool(v) => v.len() / 8 + 1,
            Self::Text(v) => v.iter().map(|s| s.len() + 4).sum(),
        }
    }

    fn empty_like(&self) -> Self {
        match self {
            Self::F32(_) => Self::F32(Vec::new()),
            Self::F64(_) => Self::F64(Vec::new()),
            Self::I64(_) => Self::I64(Vec::new()),
            Self::Bool(_) => Self::Bool(Vec::new()),
            Self::Text(_) => Self::Text(Vec::new()),
        }
    }

    // False where the kinds differ.
    fn append(&mut self, other: Self) -> bool {
        match (self, other) {
            (Self::F32(a), Self::F32(b)) => a.extend(b),
            (Self::F64(a), Self::F64(b)) => a.extend(b),
            (Self::I64(a), Self::I64(b)) => a.extend(b),
            (Self::Bool(a), Self::Bool(b)) => a.extend(b),
            (Self::Text(a), Self::Text(b)) => a.extend(b),
            _ => return false,
        }
        true
    }

    /// The values as f64, for statistics; none for text.
    pub(crate) fn to_f64(&self) -> Vec<f64> {
        match self {
            Self::F32(v) => v.iter().map(|x| f64::from(*x)).collect(),
            Self::F64(v) => v.clone(),
            Self::I64(v) => v.iter().map(|x| *x as f64).collect(),
            Self::Bool(v) => v.iter().map(|x| f64::from(u8::from(*x))).collect(),
            Self::Text(_) => Vec::new(),
        }
    }
}

/// One column: its name, `None` for a scalar or the length of each row's list, and its values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TableColumn {
    pub(crate) name: String,
    pub(crate) list: Option<usize>,
    pub(crate) cells: Cells,
}

impl TableColumn {
    /// A column of scalars.
    pub(crate) fn scalar(name: impl Into<String>, cells: Cells) -> Self {
        Self { name: name.into(), list: None, cells }
    }

    /// A column of lists of `dim` values.
    pub(crate) fn list(name: impl Into<String>, dim: usize, cells: Cells) -> Self {
        Self { name: name.into(), list: Some(dim), cells }
    }

    fn rows(&self) -> usize {
        self.cells.len() / self.list.unwrap_or(1).max(1)
    }
}

/// A parquet file that grows; only the rows of the unfinished row group are in memory.
pub(crate) struct Table {
    path: PathBuf,
    writer: SerializedFileWriter<BufWriter<File>>,
    pending: Vec<TableColumn>,
    rows_per_group: usize,
}

impl Table {
    /// Creates the file with the columns of `layout` (its values are not written).
    pub(crate) fn create(
        path: &Path,
        layout: &[TableColumn],
        rows_per_group: usize,
        metadata: &[(&str, String)],
    ) -> Result<Self> {
        let fail = |e| parquet_error(path, e);
        let fields = layout.iter().map(field).collect::<Result<Vec<_>, _>>().map_err(fail)?;
        let schema =
            Type::group_type_builder("schema").with_fields(fields).build().map_err(fail)?;
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true);
        for column in layout {
            // Floats seldom repeat: a dictionary would only be tried and thrown away.
            if matches!(column.cells, Cells::F32(_) | Cells::F64(_)) {
                let path = leaf_path(column);
                properties = properties.set_column_dictionary_enabled(path, false);
            }
        }
        let pairs = metadata.iter().map(|(k, v)| KeyValue::new((*k).to_owned(), v.clone()));
        let properties = properties.set_key_value_metadata(Some(pairs.collect())).build();
        let file = BufWriter::new(super::staging::create(path)?);
        let writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties))
            .map_err(fail)?;
        let pending = layout
            .iter()
            .map(|c| TableColumn {
                name: c.name.clone(),
                list: c.list,
                cells: c.cells.empty_like(),
            })
            .collect();
        Ok(Self { path: path.to_owned(), writer, pending, rows_per_group })
    }

    /// Adds rows: the columns of the layout, in its order.
    pub(crate) fn append(&mut self, columns: Vec<TableColumn>) -> Result<()> {
        let fits = columns.len() == self.pending.len()
            && columns.iter().zip(&self.pending).all(|(a, b)| a.name == b.name && a.list == b.list);
        if !fits {
            return Err(Error::config(&self.path, "rows do not have the columns of the file"));
        }
        for (mine, more) in self.pending.iter_mut().zip(columns) {
            if !mine.cells.append(more.cells) {
                let message = format!("{}: rows of another type than the file's", mine.name);
                return Err(Error::config(&self.path, message));
            }
        }
        if self.pending.first().is_some_and(|c| c.rows() >= self.rows_per_group) {
            self.flush()?;
        }
        Ok(())
    }

    /// Size of the file so far, bytes, with an upper estimate of what is in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.writer.bytes_written() + self.pending.iter().map(|c| c.cells.bytes()).sum::<usize>()
    }

    fn flush(&mut self) -> Result<()> {
        if self.pending.first().is_none_or(|c| c.rows() == 0) {
            return Ok(());
        }
        let path = &self.path;
        let fail = |e| parquet_error(path, e);
        let mut group = self.writer.next_row_group().map_err(fail)?;
        for column in &mut self.pending {
            let Some(mut writer) = group.next_column().map_err(fail)? else {
                return Err(Error::config(path, format!("{}: no such column", column.name)));
            };
            write_column(&mut writer, column).map_err(fail)?;
            writer.close().map_err(fail)?;
            column.cells = column.cells.empty_like();
        }
        group.close().map_err(fail)?;
        Ok(())
    }

    /// Writes what is left and the footer, and waits until the file is on the disk.
    pub(crate) fn close(mut self) -> Result<()> {
        self.flush()?;
        let path = self.path;
        let buffer = self.writer.into_inner().map_err(|e| parquet_error(&path, e))?;
        let file = buffer.into_inner().map_err(|e| Error::io(&path, e.into_error()))?;
        file.sync_all().map_err(|e| Error::io(&path, e))
    }
}

/// A parquet error with the file's name.
pub(crate) fn parquet_error(path: &Path, error: ParquetError) -> Error {
    match error {
        ParquetError::External(source) => Error::io(path, std::io::Error::other(source)),
        other => Error::config(path, other.to_string()),
    }
}

fn leaf_path(column: &TableColumn) -> ColumnPath {
    let mut parts = vec![column.name.clone()];
    if column.list.is_some() {
        parts.extend(["list".to_owned(), "element".to_owned()]);
    }
    ColumnPath::new(parts)
}

fn field(column: &TableColumn) -> Result<TypePtr, ParquetError> {
    let physical = match column.cells {
        Cells::F32(_) => Physical::FLOAT,
        Cells::F64(_) => Physical::DOUBLE,
        Cells::I64(_) => Physical::INT64,
        Cells::Bool(_) => Physical::BOOLEAN,
        Cells::Text(_) => Physical::BYTE_ARRAY,
    };
    let leaf = |name: &str| {
        let builder =
            Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
        let builder = if physical == Physical::BYTE_ARRAY {
            builder
                .with_converted_type(ConvertedType::UTF8)
                .with_logical_type(Some(LogicalType::String))
        } else {
            builder
        };
        builder.build().map(Arc::new)
    };
    if column.list.is_none() {
        return leaf(&column.name);
    }
    let items = Type::group_type_builder("list")
        .with_repetition(Repetition::REPEATED)
        .with_fields(vec![leaf("element")?])
        .build()?;
    let outer = Type::group_type_builder(&column.name)
        .with_repetition(Repetition::OPTIONAL)
        .with_converted_type(ConvertedType::LIST)
        .with_logical_type(Some(LogicalType::List))
        .with_fields(vec![Arc::new(items)])
        .build()?;
    Ok(Arc::new(outer))
}

fn write_column(
    writer: &mut SerializedColumnWriter,
    column: &TableColumn,
) -> Result<(), ParquetError> {
    let list = column.list;
    match &column.cells {
        Cells::F32(v) => write_values::<FloatType>(writer, v, list),
        Cells::F64(v) => write_values::<DoubleType>(writer, v, list),
        Cells::I64(v) => write_values::<Int64Type>(writer, v, list),
        Cells::Bool(v) => write_values::<BoolType>(writer, v, list),
        Cells::Text(v) => {
            let bytes: Vec<ByteArray> = v.iter().map(|s| ByteArray::from(s.as_str())).collect();
            write_values::<ByteArrayType>(writer, &bytes, list)
        }
    }
}

fn write_values<T: DataType>(
    writer: &mut SerializedColumnWriter,
    values: &[T::T],
    list: Option<usize>,
) -> Result<(), ParquetError> {
    let typed = writer.typed::<T>();
    match list {
        None => typed.write_batch(values, Some(&vec![1; values.len()]), None)?,
        Some(dim) => {
            let repetition: Vec<i16> = (0..values.len()).map(|i| i16::from(i % dim != 0)).collect();
            typed.write_batch(values, Some(&vec![3; values.len()]), Some(&repetition))?
        }
    };
    Ok(())
}
