-- Buyers with their measures: recency in calendar days of the shop's zone, frequency and monetary;
-- none of the three where no order is in the window.
SELECT
    f.*,
    CASE WHEN f.orders_in_window > 0 THEN
        date_diff('day', CAST(timezone($zone, make_timestamptz(f.last_at)) AS DATE), $as_of_day)
    END AS recency,
    CASE WHEN f.orders_in_window > 0 THEN coalesce(d.days, f.orders_in_window) END AS frequency
FROM facts AS f
LEFT JOIN days AS d ON d.member_id = f.member_id
