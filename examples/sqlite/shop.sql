-- SPDX-License-Identifier: Apache-2.0
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price REAL NOT NULL);
CREATE INDEX item_name ON item (name);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
  INSERT INTO item (name, price) SELECT printf('item %05d', i * 7919 % 5000), i / 4.0 FROM n;
BEGIN;
UPDATE item SET price = price * 2 WHERE id % 3 = 0;
DELETE FROM item WHERE id % 10 = 0;
COMMIT;
SELECT count(*), round(sum(price), 2), min(name), max(name) FROM item;
SELECT name, price FROM item WHERE name BETWEEN 'item 00100' AND 'item 00110' ORDER BY name;
PRAGMA integrity_check;
