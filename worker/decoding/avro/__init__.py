"""Format `avro`, in Confluent's wire format."""
