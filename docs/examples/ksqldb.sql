-- Anomaly events as a ksqlDB stream, and each machine's alarms an hour as a table.
SET 'isolation.level' = 'read_committed';

CREATE STREAM anomalies (
  machine VARCHAR KEY,
  `id` VARCHAR,
  `time` VARCHAR,
  `data` STRUCT<
    `entity` VARCHAR,
    `time` VARCHAR,
    `score` DOUBLE,
    `p_value` DOUBLE,
    `severity` VARCHAR,
    `threshold` DOUBLE,
    `model` STRUCT<`name` VARCHAR, `version` VARCHAR>,
    `features` ARRAY<STRUCT<`name` VARCHAR, `actual` DOUBLE, `expected` DOUBLE, `contribution` DOUBLE, `missing` BOOLEAN>>,
    `incident` VARCHAR
  >
) WITH (
  KAFKA_TOPIC = 'offnormal.anomalies',
  KEY_FORMAT = 'KAFKA',
  VALUE_FORMAT = 'JSON'
);

CREATE TABLE alarms_an_hour AS
SELECT machine, COUNT(*) AS alarms
FROM anomalies
WINDOW TUMBLING (SIZE 1 HOUR)
WHERE `data`->`severity` = 'alarm'
GROUP BY machine
EMIT CHANGES;
