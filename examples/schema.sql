CREATE TABLE users (
    id     integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name   text NOT NULL,
    email  text NOT NULL
);

CREATE TABLE products (
    id     integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name   text NOT NULL,
    cents  integer NOT NULL CHECK (cents > 0),
    stock  integer NOT NULL CHECK (stock >= 0)
);

CREATE TABLE orders (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id     integer NOT NULL REFERENCES users,
    product_id  integer NOT NULL REFERENCES products,
    quantity    integer NOT NULL CHECK (quantity > 0)
);

CREATE TABLE payments (
    order_id  integer PRIMARY KEY REFERENCES orders,
    cents     integer NOT NULL
);

CREATE TABLE vouchers (
    code     text PRIMARY KEY,
    percent  integer NOT NULL CHECK (percent BETWEEN 1 AND 100)
);
