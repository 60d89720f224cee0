-- Anomaly events as a Flink table (kafka connector, json format), and each machine's alarms an hour.
CREATE TABLE anomalies (
  `id` STRING,
  `source` STRING,
  `type` STRING,
  `time` STRING,
  `data` ROW<
    `entity` STRING,
    `time` STRING,
    `score` DOUBLE,
    `p_value` DOUBLE,
    `severity` STRING,
    `threshold` DOUBLE,
    `model` ROW<`name` STRING, `version` STRING>,
    `features` ARRAY<ROW<`name` STRING, `actual` DOUBLE, `expected` DOUBLE, `contribution` DOUBLE, `missing` BOOLEAN>>,
    `incident` STRING
  >,
  `at` AS TO_TIMESTAMP(REPLACE(REPLACE(`data`.`time`, 'T', ' '), 'Z', '')),
  WATERMARK FOR `at` AS `at` - INTERVAL '30' SECOND
) WITH (
  'connector' = 'kafka',
  'topic' = 'offnormal.anomalies',
  'properties.bootstrap.servers' = 'kafka:9092',
  'properties.group.id' = 'flink-anomalies',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'group-offsets',
  'properties.auto.offset.reset' = 'earliest',
  'format' = 'json'
);

SELECT window_start, `data`.`entity`, COUNT(*) AS alarms
FROM TABLE(TUMBLE(TABLE anomalies, DESCRIPTOR(`at`), INTERVAL '1' HOUR))
WHERE `data`.`severity` = 'alarm'
GROUP BY window_start, window_end, `data`.`entity`;
