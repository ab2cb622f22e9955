//! The shapes of requests that strangers send: walked before a frame is decoded, because the
//! decoder reserves memory for whatever array length the frame claims. Knows where fields end,
//! not what they mean.

use Field::{Blob, Fixed, Items, List, Text};

/// Most array elements that one request may have, all arrays together. A Fetch of every partition
/// of a large cluster has fewer; a decoded element takes about 150 bytes.
pub const ELEMENTS_MAX: usize = 200_000;

/// Why a frame does not have the shape of its request.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ShapeError {
    /// No shape is known for this request.
    #[error("no shape is known for api key {0}")]
    UnknownKey(i16),
    /// The request is known, this version of it is not.
    #[error("version {version} of api key {key} is not known")]
    UnknownVersion {
        /// Which request.
        key: i16,
        /// Its version.
        version: i16,
    },
    /// A field reaches beyond the end of the frame, or a length is negative.
    #[error("a field at byte {at} does not fit the frame")]
    Overrun {
        /// Where in the frame.
        at: usize,
    },
    /// More array elements than [`ELEMENTS_MAX`].
    #[error("more than {ELEMENTS_MAX} array elements")]
    TooManyElements,
}

enum Field {
    /// So many bytes.
    Fixed(usize),
    /// A string, null or not.
    Text,
    /// Bytes or records, null or not.
    Blob,
    /// An array of one plain field.
    Items(&'static Field),
    /// An array of structures.
    List(&'static [Part]),
}

/// A field and the versions that have it.
struct Part(i16, i16, Field);

const LAST: i16 = i16::MAX;

const fn all(field: Field) -> Part {
    Part(0, LAST, field)
}

struct Shape {
    key: i16,
    versions: (i16, i16),
    /// First version with compact lengths and tagged fields (KIP-482).
    flexible: i16,
    parts: &'static [Part],
}

/// Fields in the order of Kafka's schemas (`common/message/*.json`), tagged ones left out: those
/// carry their own lengths, and none of them holds an array.
const SHAPES: &[Shape] = &[
    PRODUCE,
    FETCH,
    LIST_OFFSETS,
    SHARE_FETCH,
    SHARE_ACKNOWLEDGE,
    Shape {
        key: 16, // ListGroups
        versions: (0, 5),
        flexible: 3,
        parts: &[Part(4, LAST, Items(&Text)), Part(5, LAST, Items(&Text))],
    },
    Shape {
        key: 21, // DeleteRecords
        versions: (0, 2),
        flexible: 2,
        parts: &[all(List(&[all(Text), all(List(&[all(Fixed(4 + 8))]))])), all(Fixed(4))],
    },
    Shape {
        key: 23, // OffsetForLeaderEpoch
        versions: (2, 4),
        flexible: 4,
        parts: &[
            Part(3, LAST, Fixed(4)),
            all(List(&[all(Text), all(List(&[all(Fixed(4 + 4 + 4))]))])),
        ],
    },
    Shape {
        key: 27, // WriteTxnMarkers
        versions: (1, 2),
        flexible: 1,
        parts: &[all(List(&[
            all(Fixed(8 + 2 + 1)),
            all(List(&[all(Text), all(Items(&Fixed(4)))])),
            all(Fixed(4)),
            Part(2, LAST, Fixed(1)),
        ]))],
    },
    Shape {
        key: 32, // DescribeConfigs
        versions: (1, 4),
        flexible: 4,
        parts: &[
            all(List(&[all(Fixed(1)), all(Text), all(Items(&Text))])),
            all(Fixed(1)),
            Part(3, LAST, Fixed(1)),
        ],
    },
    Shape {
        key: 33, // AlterConfigs
        versions: (0, 2),
        flexible: 2,
        parts: &[
            all(List(&[all(Fixed(1)), all(Text), all(List(&[all(Text), all(Text)]))])),
            all(Fixed(1)),
        ],
    },
    Shape {
        key: 34, // AlterReplicaLogDirs
        versions: (1, 2),
        flexible: 2,
        parts: &[all(List(&[all(Text), all(List(&[all(Text), all(Items(&Fixed(4)))]))]))],
    },
    Shape {
        key: 35, // DescribeLogDirs
        versions: (1, 4),
        flexible: 2,
        parts: &[all(List(&[all(Text), all(Items(&Fixed(4)))]))],
    },
    Shape {
        key: 44, // IncrementalAlterConfigs
        versions: (0, 1),
        flexible: 1,
        parts: &[
            all(List(&[
                all(Fixed(1)),
                all(Text),
                all(List(&[all(Text), all(Fixed(1)), all(Text)])),
            ])),
            all(Fixed(1)),
        ],
    },
    Shape {
        key: 61, // DescribeProducers
        versions: (0, 0),
        flexible: 0,
        parts: &[all(List(&[all(Text), all(Items(&Fixed(4)))]))],
    },
    Shape {
        key: 66, // ListTransactions
        versions: (0, 2),
        flexible: 0,
        parts: &[
            all(Items(&Text)),
            all(Items(&Fixed(8))),
            Part(1, LAST, Fixed(8)),
            Part(2, LAST, Text),
        ],
    },
];

/// Offsets that a share consumer acknowledges: first, last, and how (KIP-932).
const ACKNOWLEDGED: Part = all(List(&[all(Fixed(8 + 8)), all(Items(&Fixed(1)))]));

const SHARE_FETCH: Shape = Shape {
    key: 78,
    versions: (1, 1),
    flexible: 0,
    parts: &[
        all(Text),
        all(Text),
        all(Fixed(6 * 4)),
        all(List(&[all(Fixed(16)), all(List(&[all(Fixed(4)), ACKNOWLEDGED]))])),
        all(List(&[all(Fixed(16)), all(Items(&Fixed(4)))])),
    ],
};

const SHARE_ACKNOWLEDGE: Shape = Shape {
    key: 79,
    versions: (1, 1),
    flexible: 0,
    parts: &[
        all(Text),
        all(Text),
        all(Fixed(4)),
        all(List(&[all(Fixed(16)), all(List(&[all(Fixed(4)), ACKNOWLEDGED]))])),
    ],
};

const PRODUCE: Shape = Shape {
    key: 0,
    versions: (3, 13),
    flexible: 9,
    parts: &[
        all(Text),
        all(Fixed(2 + 4)),
        all(List(&[
            Part(0, 12, Text),
            Part(13, LAST, Fixed(16)),
            all(List(&[all(Fixed(4)), all(Blob)])),
        ])),
    ],
};

const FETCH: Shape = Shape {
    key: 1,
    versions: (4, 18),
    flexible: 12,
    parts: &[
        Part(0, 14, Fixed(4)),
        all(Fixed(4 + 4 + 4 + 1)),
        Part(7, LAST, Fixed(4 + 4)),
        all(List(&[
            Part(0, 12, Text),
            Part(13, LAST, Fixed(16)),
            all(List(&[
                all(Fixed(4)),
                Part(9, LAST, Fixed(4)),
                all(Fixed(8)),
                Part(12, LAST, Fixed(4)),
                Part(5, LAST, Fixed(8)),
                all(Fixed(4)),
            ])),
        ])),
        Part(7, LAST, List(&[Part(0, 12, Text), Part(13, LAST, Fixed(16)), all(Items(&Fixed(4)))])),
        Part(11, LAST, Text),
    ],
};

const LIST_OFFSETS: Shape = Shape {
    key: 2,
    versions: (1, 11), // 11 has the bytes of 10, and followers send it
    flexible: 6,
    parts: &[
        all(Fixed(4)),
        Part(2, LAST, Fixed(1)),
        all(List(&[
            all(Text),
            all(List(&[all(Fixed(4)), Part(4, LAST, Fixed(4)), all(Fixed(8))])),
        ])),
        Part(10, LAST, Fixed(4)),
    ],
};

/// Walks a whole request frame (without its length, header included). After `Ok` every array length
/// in it was backed by bytes. Answers how many bytes were left over.
pub fn check_request(frame: &[u8]) -> Result<usize, ShapeError> {
    let mut walk = Walk { frame, at: 0, version: 0, flexible: false, elements: 0 };
    let key = walk.short()?;
    let version = walk.short()?;
    let shape = SHAPES.iter().find(|shape| shape.key == key).ok_or(ShapeError::UnknownKey(key))?;
    if !(shape.versions.0..=shape.versions.1).contains(&version) {
        return Err(ShapeError::UnknownVersion { key, version });
    }
    walk.skip(4)?;
    // The client id has a short length in every header version.
    walk.text()?;
    walk.version = version;
    walk.flexible = version >= shape.flexible;
    walk.tags()?;
    walk.parts(shape.parts)?;
    Ok(frame.len() - walk.at)
}

struct Walk<'a> {
    frame: &'a [u8],
    at: usize,
    version: i16,
    flexible: bool,
    elements: usize,
}

impl Walk<'_> {
    fn parts(&mut self, parts: &[Part]) -> Result<(), ShapeError> {
        for Part(from, to, field) in parts {
            if (*from..=*to).contains(&self.version) {
                self.field(field)?;
            }
        }
        self.tags()
    }

    fn field(&mut self, field: &Field) -> Result<(), ShapeError> {
        match field {
            Fixed(bytes) => self.skip(*bytes),
            Text => self.text(),
            Blob => match self.length()? {
                Some(bytes) => self.skip(bytes),
                None => Ok(()),
            },
            Items(item) => self.each(|walk| walk.field(item)),
            List(parts) => self.each(|walk| walk.parts(parts)),
        }
    }

    fn each(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), ShapeError>,
    ) -> Result<(), ShapeError> {
        for _ in 0..self.length()?.unwrap_or(0) {
            self.elements += 1;
            if self.elements > ELEMENTS_MAX {
                return Err(ShapeError::TooManyElements);
            }
            element(self)?;
        }
        Ok(())
    }

    fn text(&mut self) -> Result<(), ShapeError> {
        let length = if self.flexible {
            self.length()?
        } else {
            let at = self.at;
            match self.short()? {
                -1 => None,
                short => Some(usize::try_from(short).map_err(|_| ShapeError::Overrun { at })?),
            }
        };
        self.skip(length.unwrap_or(0))
    }

    /// Length of a blob or an array; `None` for null.
    fn length(&mut self) -> Result<Option<usize>, ShapeError> {
        if self.flexible {
            return Ok(self.uvarint()?.checked_sub(1));
        }
        let at = self.at;
        match i32::from_be_bytes(self.take()?) {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| ShapeError::Overrun { at }),
        }
    }

    fn tags(&mut self) -> Result<(), ShapeError> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.uvarint()? {
            self.uvarint()?;
            let bytes = self.uvarint()?;
            self.skip(bytes)?;
        }
        Ok(())
    }

    fn uvarint(&mut self) -> Result<usize, ShapeError> {
        let at = self.at;
        let mut value: u64 = 0;
        for group in 0..5 {
            let [byte] = self.take()?;
            value |= u64::from(byte & 0x7f) << (7 * group);
            if byte & 0x80 == 0 {
                return match u32::try_from(value) {
                    Ok(value) => Ok(value as usize),
                    Err(_) => Err(ShapeError::Overrun { at }),
                };
            }
        }
        Err(ShapeError::Overrun { at })
    }

    fn short(&mut self) -> Result<i16, ShapeError> {
        Ok(i16::from_be_bytes(self.take()?))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ShapeError> {
        let at = self.at;
        self.skip(N)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.frame[at..at + N]);
        Ok(bytes)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), ShapeError> {
        if bytes > self.frame.len() - self.at {
            return Err(ShapeError::Overrun { at: self.at });
        }
        self.at += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::messages::{
        AlterConfigsRequest, AlterReplicaLogDirsRequest, ApiKey, DeleteRecordsRequest,
        DescribeConfigsRequest, DescribeLogDirsRequest, FetchRequest,
        IncrementalAlterConfigsRequest, ListGroupsRequest, ListOffsetsRequest,
        ListTransactionsRequest, OffsetForLeaderEpochRequest, ProduceRequest, RequestHeader,
        WriteTxnMarkersRequest, alter_configs_request, alter_replica_log_dirs_request,
        delete_records_request, describe_configs_request, describe_log_dirs_request, fetch_request,
        incremental_alter_configs_request, list_offsets_request, offset_for_leader_epoch_request,
        produce_request, write_txn_markers_request,
    };
    use kafka_protocol::protocol::{Request, StrBytes, encode_request_header_into_buffer};

    use super::*;

    fn frame<R: Request>(version: i16, body: &R) -> BytesMut {
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(7)
            .with_client_id(Some(StrBytes::from_static_str("shape")));
        let mut frame = BytesMut::new();
        encode_request_header_into_buffer(&mut frame, &header).unwrap();
        body.encode(&mut frame, version).unwrap();
        frame
    }

    /// Every version with arrays in it is walked to its exact end, and no cut of it is accepted.
    fn walks<R: Request>(body: impl Fn(i16) -> R) {
        for version in R::VERSIONS.min..=R::VERSIONS.max {
            let bytes = frame(version, &body(version));
            assert_eq!(check_request(&bytes), Ok(0), "{:?} v{version}", ApiKey::try_from(R::KEY));
            for cut in 0..bytes.len() {
                assert!(check_request(&bytes[..cut]).is_err(), "v{version} cut at {cut}");
            }
        }
    }

    #[test]
    fn data_requests_are_walked_to_their_end() {
        walks(|version| {
            let mut topic = produce_request::TopicProduceData::default();
            topic.name = if version < 13 {
                StrBytes::from_static_str("t").into()
            } else {
                Default::default()
            };
            let partition = produce_request::PartitionProduceData::default()
                .with_records(Some(bytes::Bytes::from_static(b"12345")));
            topic.partition_data = vec![partition; 2];
            ProduceRequest::default().with_topic_data(vec![topic; 2])
        });
        walks(|version| {
            let name = || {
                if version < 13 {
                    StrBytes::from_static_str("t").into()
                } else {
                    Default::default()
                }
            };
            let topic = fetch_request::FetchTopic::default()
                .with_topic(name())
                .with_partitions(vec![fetch_request::FetchPartition::default(); 3]);
            let forgotten = fetch_request::ForgottenTopic::default()
                .with_topic(name())
                .with_partitions(vec![1, 2]);
            let request = FetchRequest::default()
                .with_topics(vec![topic; 2])
                .with_rack_id(StrBytes::from_static_str(if version < 11 { "" } else { "rack" }));
            if version < 7 { request } else { request.with_forgotten_topics_data(vec![forgotten]) }
        });
        walks(|_| {
            let partitions = vec![list_offsets_request::ListOffsetsPartition::default(); 2];
            let topic =
                list_offsets_request::ListOffsetsTopic::default().with_partitions(partitions);
            ListOffsetsRequest::default().with_topics(vec![topic; 2])
        });
        walks(|_| {
            let partitions =
                vec![offset_for_leader_epoch_request::OffsetForLeaderPartition::default(); 2];
            let topic = offset_for_leader_epoch_request::OffsetForLeaderTopic::default()
                .with_partitions(partitions);
            OffsetForLeaderEpochRequest::default().with_topics(vec![topic; 2])
        });
        walks(|_| {
            let topic = write_txn_markers_request::WritableTxnMarkerTopic::default()
                .with_partition_indexes(vec![3, 4]);
            let marker =
                write_txn_markers_request::WritableTxnMarker::default().with_topics(vec![topic]);
            WriteTxnMarkersRequest::default().with_markers(vec![marker; 2])
        });
    }

    #[test]
    fn admin_requests_are_walked_to_their_end() {
        walks(|_| {
            let partitions = vec![delete_records_request::DeleteRecordsPartition::default(); 2];
            let topic =
                delete_records_request::DeleteRecordsTopic::default().with_partitions(partitions);
            DeleteRecordsRequest::default().with_topics(vec![topic])
        });
        walks(|version| {
            let states =
                if version < 4 { vec![] } else { vec![StrBytes::from_static_str("Stable")] };
            ListGroupsRequest::default().with_states_filter(states)
        });
        walks(|_| {
            ListTransactionsRequest::default().with_producer_id_filters(vec![1.into(), 2.into()])
        });
        walks(|_| {
            let topic = describe_log_dirs_request::DescribableLogDirTopic::default()
                .with_partitions(vec![1]);
            DescribeLogDirsRequest::default().with_topics(Some(vec![topic]))
        });
        walks(|_| DescribeLogDirsRequest::default().with_topics(None));
        walks(|_| {
            let resource = describe_configs_request::DescribeConfigsResource::default()
                .with_configuration_keys(Some(vec![StrBytes::from_static_str("k")]));
            DescribeConfigsRequest::default().with_resources(vec![resource; 2])
        });
        walks(|_| {
            let configs = vec![incremental_alter_configs_request::AlterableConfig::default()];
            let resource = incremental_alter_configs_request::AlterConfigsResource::default()
                .with_configs(configs);
            IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
        });
        walks(|_| {
            let configs = vec![alter_configs_request::AlterableConfig::default()];
            let resource =
                alter_configs_request::AlterConfigsResource::default().with_configs(configs);
            AlterConfigsRequest::default().with_resources(vec![resource])
        });
        walks(|_| {
            let topic = alter_replica_log_dirs_request::AlterReplicaLogDirTopic::default()
                .with_partitions(vec![1]);
            let dir = alter_replica_log_dirs_request::AlterReplicaLogDir::default()
                .with_topics(vec![topic]);
            AlterReplicaLogDirsRequest::default().with_dirs(vec![dir])
        });
    }

    #[test]
    fn an_absurd_array_length_is_refused_before_memory_is_reserved() {
        let mut fetch = frame(4, &FetchRequest::default());
        let topics = fetch.len() - 4;
        fetch[topics..].copy_from_slice(&i32::MAX.to_be_bytes());
        assert!(matches!(check_request(&fetch), Err(ShapeError::Overrun { .. })));
        fetch[topics..].copy_from_slice(&(-2i32).to_be_bytes());
        assert!(matches!(check_request(&fetch), Err(ShapeError::Overrun { .. })));
    }

    #[test]
    fn more_elements_than_any_cluster_has_are_refused() {
        let mut groups = frame(5, &ListGroupsRequest::default());
        groups.truncate(groups.len() - 3);
        crate::wire::segments::put_uvarint(&mut groups, ELEMENTS_MAX as u64 + 2);
        groups.put_bytes(1, ELEMENTS_MAX + 1);
        assert_eq!(check_request(&groups), Err(ShapeError::TooManyElements));
    }

    #[test]
    fn unknown_requests_are_named() {
        let bytes = frame(3, &ProduceRequest::default());
        let mut other = bytes.clone();
        other[1] = 3;
        assert_eq!(check_request(&other), Err(ShapeError::UnknownKey(3)));
        other[1] = 0;
        other[3] = 2;
        let unknown = ShapeError::UnknownVersion { key: 0, version: 2 };
        assert_eq!(check_request(&other), Err(unknown));
    }
}
